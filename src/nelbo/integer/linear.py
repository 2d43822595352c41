"""Linear layers in integers: weights, one multiplier for each row of them, and an offset."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.errors import NelboError
from nelbo.integer.arithmetic import EXACT_FLOAT64, WEIGHT_BITS
from nelbo.integer.tensors import Tensors, tensor_of

_MULTIPLIER_BITS = 16
_LARGEST_WEIGHT = 2**WEIGHT_BITS - 1


@dataclass(frozen=True)
class Bound:
    """How large a row of integer weights may be, so that its sums of products stay exact.

    Attributes:
        largest: The largest sum of its weights of one sign plus ``low`` times those of the other.
        low: How far the inputs go below zero, in units of how far they go above it.
    """

    largest: int
    low: float = 1.0

    def sizes(self, rows: Float[Tensor, "o k"]) -> Float[Tensor, " o"]:
        """Returns what is bounded of each row: for ``low`` = 1 its L1 norm."""
        positive, negative = rows.clamp(min=0).sum(1), -rows.clamp(max=0).sum(1)
        return torch.maximum(positive + self.low * negative, negative + self.low * positive)


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

    def tensors(self, prefix: str = "") -> Tensors:
        """Returns its tensors by name, as :func:`linear_of` reads them."""
        return {f"{prefix}{name}": getattr(self, name) for name in ("weight", "multiplier", "offset")}


def linear_of(weights: Tensors, prefix: str, in_shape: Sequence[int | None]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns weight, multiplier and offset of a layer that reads so many numbers.

    Raises:
        NelboError: If one is missing, or has another type or shape.
    """
    weight = tensor_of(weights, f"{prefix}weight", torch.int16, (None, *in_shape))
    multiplier = tensor_of(weights, f"{prefix}multiplier", torch.int32, weight.shape[:1])
    return weight, multiplier, tensor_of(weights, f"{prefix}offset", torch.int64, weight.shape[:1])


def run_linear(weights: Tensors, prefix: str, x: Float[Tensor, " i"], shift: int, limit: int) -> Float[Tensor, " o"]:
    """Returns the result of a layer, within ±limit."""
    total = weights[f"{prefix}weight"].double() @ x
    total = total * weights[f"{prefix}multiplier"] + weights[f"{prefix}offset"].double()
    return (total * 0.5**shift).floor().clamp(-limit, limit)


def quantise_linear(
    weight: Float[Tensor, "o *k"],
    bias: Float[Tensor, " o"] | None,
    bits: tuple[int, int],
    in_limit: int,
    bounds: Sequence[Bound],
) -> IntegerLinear:
    """Returns a linear layer in integers.

    Each row of weights is as fine as its largest entry and the bounds let it be.

    Args:
        weight: Its weights, output first.
        bias: Its bias, None for zero.
        bits: The fractional bits of what it reads and of its result.
        in_limit: The largest size of what it reads.
        bounds: What the rows of integer weights must stay within.

    Raises:
        NelboError: If the weights are not finite, or an accumulator may be too large to be exact.
    """
    rows = weight.double().flatten(1)
    bias = torch.zeros(len(rows), dtype=torch.float64) if bias is None else bias.double()
    if not bool(rows.isfinite().all() and bias.isfinite().all()):
        raise NelboError("its weights are not finite")
    step = row_step(rows, bounds)
    if step is None:
        raise NelboError(f"it sums {rows.shape[1]} products, more than its accumulator holds exactly")
    unit = step * 2.0 ** (bits[1] - bits[0])
    largest = float(unit.max()) or 1.0
    most = min(bound.largest for bound in bounds)
    room = 51 - (most * in_limit).bit_length()  # What the products leave to the multiplier.
    shift = min(_MULTIPLIER_BITS, room) - math.ceil(math.log2(largest))
    if not 1 <= shift <= 50:
        raise NelboError(f"its weights have a size of {float(step.max()):.1e} steps, out of range")
    multiplier = (unit * 2.0**shift).ceil().clamp(min=1)
    integers = (rows / (multiplier * 2.0 ** (bits[0] - bits[1] - shift))[:, None]).round()
    offset = (bias * 2.0 ** (bits[1] + shift)).round() + 2.0 ** (shift - 1)
    if any(float(bound.sizes(integers).max()) > bound.largest for bound in bounds):
        raise NelboError("its rounded weights leave their bounds")
    check_sums(integers, multiplier, offset, in_limit)
    return IntegerLinear(integers.reshape(weight.shape).to(torch.int16), multiplier.int(), offset.long(), shift)


def row_step(rows: Float[Tensor, "o k"], bounds: Sequence[Bound]) -> Float[Tensor, " o"] | None:
    """Returns the smallest unit of each row's weights with which it stays within all bounds.

    None if the rows are too long for that.
    """
    rounding = rows.shape[1] // 2 + 1  # At most half a unit for each weight.
    if any(bound.largest <= rounding for bound in bounds):
        return None
    steps = [bound.sizes(rows) / (bound.largest - rounding) for bound in bounds]
    return torch.stack([rows.abs().amax(1) / (_LARGEST_WEIGHT - 1), *steps]).amax(0)


def row_norm(weight: Tensor) -> int:
    """Returns the largest L1 norm of a row of integer weights."""
    return largest_sum(weight, 1, 1)


def largest_sum(weight: Tensor, low: int, high: int) -> int:
    """Returns the largest size of a row's sum of products with integers between -low and high."""
    rows = weight.long().flatten(1)
    positive, negative = rows.clamp(min=0).sum(1), -rows.clamp(max=0).sum(1)
    return int(torch.maximum(positive * high + negative * low, negative * high + positive * low).max())


def check_sums(weight: Tensor, multiplier: Tensor, offset: Tensor, in_limit: int) -> None:
    """Proves that sums of products with integers within ±in_limit, times the multiplier plus the offset, are exact.

    Raises:
        NelboError: If they may leave 2^53.
    """
    sums = weight.double().flatten(1).abs().sum(1) * in_limit
    largest = float((sums * multiplier.double().abs().clamp(min=1) + offset.double().abs()).max())
    if not largest < EXACT_FLOAT64:
        raise NelboError(f"it may reach {largest:.3g}, more than 2^53, and would not be exact")
