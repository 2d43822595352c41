"""What the names and shapes of improved-diffusion's weights say about its network.

Blocks of the way down are numbered through: 0 is the first convolution; a block with ``0.in_layers`` is a residual one,
with attention if there is a ``1.qkv``; one with ``0.op`` halves the resolution, and so ends a level. In
guided-diffusion a residual block may do so, too, which nothing in its own weights shows: a second one in a block of the
way up does.
"""

import re
from collections.abc import Mapping

from pydantic import PositiveInt
from torch import Tensor

from nelbo.errors import NelboError
from nelbo.models.settings import Frozen

Weights = Mapping[str, Tensor]


class Topology(Frozen):
    """The arguments of :class:`~nelbo.interop.improved_diffusion_unet.UNetImproved` that weights reveal.

    Attributes:
        n_channels: Channels of the first layer.
        multipliers: Channels of each level as multiples of it, finest first.
        n_blocks: Residual blocks of each level on the way down.
        attention: The resolutions with attention, as divisors of the finest.
        modulated: Whether the embedding scales and shifts (their ``use_scale_shift_norm``).
    """

    n_channels: PositiveInt
    multipliers: tuple[PositiveInt, ...]
    n_blocks: PositiveInt
    attention: tuple[PositiveInt, ...]
    modulated: bool


def topology(weights: Weights) -> tuple[Topology, int, int, int]:
    """Returns a network's topology, its input channels, its output channels and its classes (0 for none).

    Raises:
        NelboError: If these are no weights of such a network; the message names one.
    """
    n_channels, n_inputs = shape(weights, "input_blocks.0.0.weight", 4)[:2]
    n_outputs = shape(weights, "out.2.weight", 4)[0]
    n_classes = shape(weights, "label_emb.weight", 2)[0] if "label_emb.weight" in weights else 0
    levels = _levels(weights)
    counts = [len(level) for level in levels]
    if len(set(counts)) != 1 or not counts[0]:
        raise NelboError(f"the levels of the way down must have as many residual blocks each, got {counts}")
    widths = [shape(weights, f"{level[0]}.0.in_layers.2.weight", 4)[0] for level in levels]
    if any(width % n_channels for width in widths):
        raise NelboError(f"the levels have {widths} channels, no multiples of the first layer's {n_channels}")
    first = levels[0][0]
    n_shifts, n_out = shape(weights, f"{first}.0.emb_layers.1.weight", 2)[0], widths[0]
    found = Topology(
        n_channels=n_channels,
        multipliers=tuple(width // n_channels for width in widths),
        n_blocks=counts[0],
        attention=tuple(2**i for i, level in enumerate(levels) if f"{level[0]}.1.qkv.weight" in weights),
        modulated=n_shifts == 2 * n_out,
    )
    return found, n_inputs, n_outputs, n_classes


def has_resampling_blocks(weights: Weights) -> bool:
    """Returns whether residual blocks change the resolution (their ``resblock_updown``)."""
    return _n_doublings(weights) > 0


def _n_doublings(weights: Weights) -> int:
    """Returns how many residual blocks double the resolution: the second ones in a block of the way up."""
    return sum(re.fullmatch(r"output_blocks\.\d+\.[12]\.in_layers\.2\.weight", name) is not None for name in weights)


def shape(weights: Weights, name: str, n_axes: int) -> tuple[int, ...]:
    """Returns the shape of one weight.

    Raises:
        NelboError: If it is missing, empty or has another number of axes.
    """
    if name not in weights:
        raise NelboError(f"no network of improved-diffusion or guided-diffusion: it lacks {name}")
    found = tuple(weights[name].shape)
    if len(found) != n_axes or 0 in found:
        raise NelboError(f"{name} has shape {found}, expected {n_axes} axes, none empty")
    return found


def _levels(weights: Weights) -> list[list[str]]:
    """Returns the residual blocks of each level of the way down, by the start of their names."""
    levels: list[list[str]] = [[]]
    i = 1
    while True:
        block = f"input_blocks.{i}"
        if f"{block}.0.in_layers.2.weight" in weights:
            levels[-1].append(block)
        elif f"{block}.0.op.weight" in weights:
            levels.append([])
        else:
            break
        i += 1
    n = _n_doublings(weights)
    return _split(levels[0], n) if n and len(levels) == 1 else levels


def _split(blocks: list[str], n_halvings: int) -> list[list[str]]:
    """Returns the blocks of each level, without the last one of all but the last level, which halves the resolution."""
    n, rest = divmod(len(blocks) + 1, n_halvings + 1)
    if rest:
        raise NelboError(f"the {len(blocks)} blocks of the way down do not make {n_halvings + 1} levels of one length")
    return [blocks[i * n : (i + 1) * n - 1] for i in range(n_halvings + 1)]
