"""What the official VDM code calls each of our parameters, and how it orders their axes: one table.

``GROUPS`` and the layers of each group map our names to theirs, from a module down to a tensor; ``SCHEDULES``
does so for each noise schedule of theirs. A dense layer of theirs may be a 1x1 convolution of ours, and their
separate queries, keys and values are one layer of ours.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from nelbo.errors import NelboError

Arrays = Mapping[str, Float32[np.ndarray, "..."]]  # A checkpoint, by the parameters' paths.
Axes = tuple[int | None, ...]  # Their axis k is our axis axes[k]; None is an axis of 1 that ours lacks.
Kind = Mapping[str, tuple[str, Axes]]  # Of a layer: our tensor, their name for it, its axes.
Layers = Iterable[tuple[str, str, Kind]]  # Our layer, theirs (several are joined along the outputs), its kind.

_CONV: Kind = {"weight": ("kernel", (2, 3, 1, 0)), "bias": ("bias", (0,))}
_DENSE: Kind = {"weight": ("kernel", (1, 0)), "bias": ("bias", (0,))}
_NORM: Kind = {"weight": ("scale", (0,)), "bias": ("bias", (0,))}

_ENDS: Layers = (
    ("embedding.dense0", "dense0", _DENSE),
    ("embedding.dense1", "dense1", _DENSE),
    ("conv_in", "conv_in", _CONV),
    ("norm_out", "GroupNorm_0", _NORM),
    ("conv_out", "conv_out", _CONV),
)
_BLOCK: Layers = (
    ("norm1", "GroupNorm_0", _NORM),
    ("conv1", "conv1", _CONV),
    ("cond_proj", "cond_proj", _DENSE),
    ("norm2", "GroupNorm_1", _NORM),
    ("conv2", "conv2", _CONV),
    ("shortcut", "nin_shortcut", _DENSE),
)
_ATTENTION: Layers = (
    ("norm", "GroupNorm_0", _NORM),
    ("qkv", "q k v", _DENSE),
    ("proj_out", "proj_out", _DENSE),
)
GROUPS: Iterable[tuple[str, str, Layers]] = (  # {i} counts the blocks of the way down or up.
    ("net", "score_model", _ENDS),
    ("net.down.{i}", "score_model/down.block_{i}", _BLOCK),
    ("net.down_attention.{i}", "score_model/down.attn_{i}", _ATTENTION),
    ("net.middle_1", "score_model/mid.block_1", _BLOCK),
    ("net.middle_attention", "score_model/mid.attn_1", _ATTENTION),
    ("net.middle_2", "score_model/mid.block_2", _BLOCK),
    ("net.up.{i}", "score_model/up.block_{i}", _BLOCK),
    ("net.up_attention.{i}", "score_model/up.attn_{i}", _ATTENTION),
)
SCHEDULES: Mapping[str, Kind] = {  # By the official code's gamma_type.
    "fixed": {},
    "learnable_scalar": {"start": ("b", (None,)), "width": ("w", (None,))},
    "learnable_nnet": {
        "start": ("l1/bias", (None,)),
        "width": ("l1/kernel", (None, None)),
        "slopes": ("l2/kernel", (None, 0)),
        "offsets": ("l2/bias", (0,)),
        "heights": ("l3/kernel", (0, None)),
    },
}


@dataclass(frozen=True)
class Origin:
    """Where one tensor of ours comes from.

    Attributes:
        names: Their parameters, joined along the outputs, which are the last axis.
        axes: Which of our axes each of theirs is.
    """

    names: tuple[str, ...]
    axes: Axes

    def take(self, arrays: Arrays, like: Tensor) -> Float[Tensor, "..."]:
        """Returns our tensor, in the shape and type of ``like``.

        Raises:
            NelboError: If one of their parameters has another shape than that takes.
        """
        expected = [1 if axis is None else like.shape[axis] for axis in self.axes]
        expected[-1] //= len(self.names)
        for name in self.names:
            if arrays[name].shape != tuple(expected):
                raise NelboError(f"{name} has shape {arrays[name].shape}, expected {tuple(expected)}")
        joined = np.concatenate([arrays[name] for name in self.names], axis=-1)
        squeezed = joined.squeeze(tuple(k for k, axis in enumerate(self.axes) if axis is None))
        ours = squeezed.transpose(np.argsort([axis for axis in self.axes if axis is not None]))
        return torch.from_numpy(np.array(ours, order="C")).reshape(like.shape).to(like.dtype)


def sources(n_blocks: int, gamma_type: str) -> dict[str, Origin]:
    """Returns where each tensor of ours comes from, by name, optional layers included.

    Args:
        n_blocks: Blocks on the way down; there is one more on the way up.
        gamma_type: The noise schedule, a key of ``SCHEDULES``.
    """
    layers = [("noise_schedule", "gamma", SCHEDULES[gamma_type])]
    for our_group, their_group, group in GROUPS:
        for i in range(n_blocks + 1 if "{i}" in our_group else 1):
            ours, theirs = our_group.format(i=i), their_group.format(i=i)
            layers += [(f"{ours}.{layer}", f"{theirs}/{names}", kind) for layer, names, kind in group]
    return {
        f"{ours}.{tensor}": Origin(_joined(theirs, name), axes)
        for ours, theirs, kind in layers
        for tensor, (name, axes) in kind.items()
    }


def _joined(layer: str, tensor: str) -> tuple[str, ...]:
    """Returns the names of one tensor of a layer, or of the layers joined into one, as in ``a/q k v``."""
    module, _, names = layer.rpartition("/")
    return tuple("/".join([*filter(None, [module]), name, tensor]) for name in names.split())
