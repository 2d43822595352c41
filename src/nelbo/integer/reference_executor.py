"""The executor that is the specification: every operation in plain PyTorch, integers in float64, on any device.

Each line is exact: a sum or product of integers below 2^53, a product with a power of two, a floor, a table's entry;
or it is one IEEE division or square root, which is correctly rounded everywhere. No product of inexact numbers feeds a
sum, so that fused multiply-adds would change nothing either.
"""

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, unfold

from nelbo.errors import NelboError
from nelbo.integer import arithmetic
from nelbo.integer.arithmetic import (
    EXP_LENGTH,
    FEATURE_BITS,
    FLOAT32,
    GAIN_BITS,
    LATENT_BITS,
    PHASE_BITS,
    STEM_BITS,
    TABLE_BITS,
    Limbs,
    fewest_limbs,
    join,
    silu_of,
    split,
)
from nelbo.integer.linear import row_norm
from nelbo.integer.program import (
    Add,
    AnyOperation,
    Attend,
    Concat,
    Conv,
    Features,
    Norm,
    Program,
    Shuffle,
    Unshuffle,
)

Integers = Float[Tensor, "b _ _ _"]  # Integers in float64; images, results and feature maps.
Conditions = Mapping[int, Float[Tensor, " c"]]


@runtime_checkable  # For the type checks of the tests.
class Executor(Protocol):
    """What runs a quantised program; all executors return the same integers."""

    def run(self, z: Integers, conditions: Conditions) -> Integers:
        """Returns the network's result for latents of one gamma."""
        ...


class PortableExecutor:
    """Runs a program in plain PyTorch.

    Args:
        program: Quantised.
        tensors: Its integers.
        device: Where to compute.
        arithmetic: What convolutions multiply in: float64, or float32 with as many digits as its 24 bits need.

    Raises:
        NelboError: If float32 is asked for and a convolution needs too many digits.
    """

    def __init__(
        self,
        program: Program,
        tensors: Mapping[str, Tensor],
        device: torch.device,
        arithmetic: Literal["float64", "float32"] = "float64",
    ) -> None:
        self.program = program
        self._last_uses = program.last_uses()
        self._tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        self._convs = {
            position: _Product(f"operation {position}", self._tensors[f"{position}.weight"], op.in_limit, arithmetic)
            for position, op in enumerate(program.operations)
            if isinstance(op, Conv)
        }

    def run(self, z: Integers, conditions: Conditions) -> Integers:
        """Returns the network's result for latents of one gamma."""
        z = z.clamp(-arithmetic.LATENT_LIMIT, arithmetic.LATENT_LIMIT)
        results: dict[int, Tensor] = {}
        for position, op in enumerate(self.program.operations):
            sources = [z, *(results[source] for source in op.sources)]
            results[position] = self._operate(position, op, sources, conditions)
            for source in self._last_uses[position]:
                del results[source]
        result = results.popitem()[1]
        if self.program.adds_latent:
            result = result + floor_shift(z, LATENT_BITS - arithmetic.OUTPUT_BITS)
        return result

    def _operate(self, position: int, op: AnyOperation, sources: list[Tensor], conditions: Conditions) -> Tensor:
        x = sources[-1]
        match op:
            case Features():
                return features(op, x, self._tensors["table.sine"])
            case Conv():
                return self._conv(position, op, x)
            case Norm():
                return self._norm(position, op, x, conditions.get(position))
            case Attend():
                return attend(op, x, self._tensors["table.exp"])
            case Add():
                return (sources[1] + sources[2]).clamp(-op.limit, op.limit)
            case Concat():
                return torch.cat(sources[1:], dim=1)
            case Shuffle():
                return pixel_shuffle(x, op.factor)
            case Unshuffle():
                return pixel_unshuffle(x, op.factor)

    def _conv(self, position: int, op: Conv, x: Tensor) -> Tensor:
        x = floor_shift(x, op.in_shift)
        weight = self._tensors[f"{position}.weight"]
        size, height, width = weight.shape[-1], *x.shape[2:]
        columns = unfold(x, size, padding=op.padding, stride=op.stride)
        total = self._convs[position](columns)
        total = total * self._tensors[f"{position}.multiplier"][:, None] + self._tensors[f"{position}.offset"][:, None]
        result = (total * 0.5**op.shift).floor().clamp(-op.limit, op.limit)
        sides = [(side + 2 * op.padding - size) // op.stride + 1 for side in (height, width)]
        return result.unflatten(2, sides)

    def _norm(self, position: int, op: Norm, x: Tensor, condition: Tensor | None) -> Tensor:
        if condition is not None and op.condition == "before":
            x = x + condition.to(x.device)[:, None, None]
        mean, deviation = _statistics(op, x)
        gain, offset = (self._tensors[f"{position}.{name}"].double() for name in ("gain", "offset"))
        gain, offset = gain * 2.0**FEATURE_BITS, offset * 2.0**FEATURE_BITS
        if condition is not None and op.condition == "modulate":
            scale, shift = condition.to(x.device).chunk(2)
            gain = gain + gain * 0.5**FEATURE_BITS * scale
            offset = offset + offset * 0.5**FEATURE_BITS * scale + shift * 2.0**arithmetic.WEIGHT_BITS
        point = op.shift + (TABLE_BITS if op.silu else FEATURE_BITS) - GAIN_BITS
        per_group = x.shape[1] // op.groups
        deviation, mean = (value.repeat_interleave(per_group, dim=1) for value in (deviation, mean))
        multiplier = (gain / deviation * 2.0**point).floor()
        start = offset * 2.0**point - (multiplier * mean * 0.0625).floor() + 2.0 ** (op.shift - 1)
        y = x * multiplier[:, :, None, None] + start[:, :, None, None]
        y = (y * 0.5**op.shift).floor().clamp(op.low, op.high)
        return silu_of(y, self._tensors["table.silu"]) if op.silu else y


class _Product:
    """Rows of integer weights times columns of integers, exactly."""

    def __init__(self, name: str, weight: Tensor, limit: int, arithmetic: str) -> None:
        self._limbs: Limbs | None = None
        if arithmetic == "float32":
            self._limbs = fewest_limbs(limit, row_norm(weight), FLOAT32)
            if self._limbs is None:
                raise NelboError(f"{name} has too many products for float32: use the executor 'reference'")
        self._weight = weight.flatten(1).to(torch.float64 if self._limbs is None else torch.float32)

    def __call__(self, columns: Float[Tensor, "b k n"]) -> Float[Tensor, "b o n"]:
        if self._limbs is None:
            return self._weight @ columns
        return join([self._weight @ digit for digit in split(columns.float(), self._limbs)], self._limbs)


def features(op: Features, z: Integers, sine: Tensor) -> Integers:
    """Returns the latent and its Fourier features, by the table, in the stem's format."""
    shifts = [PHASE_BITS + n - 1 - LATENT_BITS for n in op.exponents]
    phases = torch.stack([(z * 2.0**shift).floor() for shift in shifts], 2).flatten(1, 2).long() if shifts else None
    parts = [floor_shift(z, LATENT_BITS - STEM_BITS)]
    if phases is not None:
        mask, quarter = 2**PHASE_BITS - 1, 2 ** (PHASE_BITS - 2)
        parts += [sine[phases & mask].double(), sine[(phases + quarter) & mask].double()]
    return torch.cat(parts, dim=1)


def floor_shift(x: Tensor, bits: int) -> Tensor:
    """Returns integers divided by a power of two, rounded to the nearest, halves up."""
    return (x * 0.5**bits + 0.5).floor() if bits else x


def _statistics(op: Norm, x: Integers) -> tuple[Float[Tensor, "b g"], Float[Tensor, "b g"]]:
    """Returns the mean of each group in sixteenths of a unit, and its standard deviation in units."""
    groups = x.reshape(len(x), op.groups, -1)
    n = groups.shape[2]
    total, squares = groups.sum(2), (groups * groups).sum(2)
    near = (total / n).floor()  # An integer near the mean keeps what follows small, and thereby exact.
    spread = squares - near * (2 * total - n * near)
    variance = spread / n + op.eps * 4.0**FEATURE_BITS
    return (total * 16 / n).floor(), variance.sqrt()


def attend(op: Attend, x: Integers, table: Tensor) -> Integers:
    """Returns the attention of queries, keys and values that stand in channels one after the other."""
    q, k, v = x.flatten(2).unflatten(1, (3, op.heads, -1)).transpose(-1, -2).unbind(1)
    logits = q @ k.transpose(-1, -2)
    below = (logits.amax(-1, keepdim=True) - logits) * float(op.multiplier)
    p = table[(below * 0.5**op.shift).floor().clamp(max=EXP_LENGTH).long()].double()
    total = p.sum(-1, keepdim=True)
    mean = ((2 * (p @ v) + total) / (2 * total)).floor()
    return mean.transpose(-1, -2).reshape(len(x), -1, *x.shape[2:])
