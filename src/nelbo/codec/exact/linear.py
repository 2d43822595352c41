"""Linear layers in integers: weights, one multiplier for each row of them, and an offset."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.codec.exact.formats import EXACT_FLOAT64, WEIGHT_BITS
from nelbo.errors import NelboError

_MULTIPLIER_BITS = 16
_LARGEST_WEIGHT = 2**WEIGHT_BITS - 1


@dataclass(frozen=True)
class IntegerLinear:
    r"""A linear layer :math:`y = \lfloor (m \sum w x + b)\, 2^{-\mathrm{shift}} \rfloor`; b holds the rounding half.

    Attributes:
        weight: w, in the shape of the float weights.
        multiplier: m, one for each row.
        offset: b, one for each row.
        shift: The binary point of m and b.
    """

    weight: Tensor
    multiplier: Tensor
    offset: Tensor
    shift: int


def quantise_linear(
    name: str,
    weight: Float[Tensor, "o *k"],
    bias: Float[Tensor, " o"] | None,
    bits: tuple[int, int],
    in_limit: int,
    budget: int,
) -> IntegerLinear:
    """Returns a linear layer in integers.

    Each row of weights is as fine as its largest entry and the budget let it be.

    Args:
        name: What to call the layer in errors.
        weight: Its weights, output first.
        bias: Its bias, None for zero.
        bits: The fractional bits of what it reads and of its result.
        in_limit: The largest size of what it reads.
        budget: The largest L1 norm of a row of integer weights.

    Raises:
        NelboError: If the weights are not finite, or an accumulator may be too large to be exact.
    """
    rows = weight.double().flatten(1)
    bias = torch.zeros(len(rows), dtype=torch.float64) if bias is None else bias.double()
    if not bool(rows.isfinite().all() and bias.isfinite().all()):
        raise NelboError(f"freeze: the weights of {name} are not finite")
    step = row_step(rows, budget)
    if step is None:
        raise NelboError(f"freeze: {name} sums {rows.shape[1]} products, more than its accumulator holds exactly")
    unit = step * 2.0 ** (bits[1] - bits[0])
    largest = float(unit.max()) or 1.0
    room = 51 - (budget * in_limit).bit_length()  # What the products leave to the multiplier.
    shift = min(_MULTIPLIER_BITS, room) - math.ceil(math.log2(largest))
    if not 1 <= shift <= 50:
        raise NelboError(f"freeze: the weights of {name} have a size of {float(step.max()):.1e} steps, out of range")
    multiplier = (unit * 2.0**shift).ceil().clamp(min=1)
    integers = (rows / (multiplier * 2.0 ** (bits[0] - bits[1] - shift))[:, None]).round()
    offset = (bias * 2.0 ** (bits[1] + shift)).round() + 2.0 ** (shift - 1)
    _prove(name, integers, multiplier, offset, in_limit, budget)
    return IntegerLinear(integers.reshape(weight.shape).to(torch.int16), multiplier.int(), offset.long(), shift)


def row_step(rows: Float[Tensor, "o k"], budget: int) -> Float[Tensor, " o"] | None:
    """Returns the smallest unit of each row's weights with which its L1 norm stays within a budget.

    None if the rows are too long for that.
    """
    room = budget - rows.shape[1] // 2 - 1  # Rounding adds at most half a unit for each weight.
    return torch.maximum(rows.abs().amax(1) / (_LARGEST_WEIGHT - 1), rows.abs().sum(1) / room) if room > 0 else None


def row_norm(weight: Tensor) -> int:
    """Returns the largest L1 norm of a row of integer weights."""
    return int(weight.long().flatten(1).abs().sum(1).max())


def _prove(name: str, weight: Tensor, multiplier: Tensor, offset: Tensor, in_limit: int, budget: int) -> None:
    norms = weight.abs().sum(1)
    largest = float((norms * in_limit * multiplier + offset.abs()).max())
    if float(norms.max()) > budget or largest >= EXACT_FLOAT64 or float(weight.abs().max()) > _LARGEST_WEIGHT:
        raise NelboError(f"freeze: {name} may reach {largest:.3g}, more than 2^53, and would not be exact")
