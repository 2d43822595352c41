"""From float programs to integer ones: weights rounded, limits chosen, every accumulator proved exact.

The proof is by norms: a sum of products is at most the L1 norm of a row of weights times the limit of what it
multiplies. All that a program can be fed stays below 2^53 in float64 and, digit by digit, below 2^24 in float32 and
below 2^31 in integers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from nelbo.errors import NelboError
from nelbo.integer import arithmetic
from nelbo.integer.arithmetic import (
    EXACT_FLOAT32,
    EXACT_FLOAT64,
    FEATURE_BITS,
    FLOAT32,
    GAIN_BITS,
    INT16,
    LOW_INDEX,
    SILU_LOW,
    STEM_BITS,
    TABLE_BITS,
    WEIGHT_BITS,
    best_limbs,
    make_tables,
    shifted_limit,
)
from nelbo.integer.linear import Bound, quantise_linear, row_step
from nelbo.integer.program import (
    Add,
    AnyOperation,
    Attend,
    Concat,
    Conv,
    Embedding,
    Features,
    Norm,
    Program,
    Shuffle,
    Tensors,
    Unshuffle,
)

STREAM_HEADROOM, TABLE_HEADROOM = 2.0, 1.25  # Limits over the largest value seen in calibration.
_MAX_IN_SHIFT = 8
_SPARE_ATTENTION_BITS = 4  # Of the 15 of the scale of attention's logits, where values are large.


@dataclass(frozen=True)
class _Value:
    """What is known of a result: fractional bits, largest size, channels, positions, whether it is the latent's."""

    bits: int
    limit: int
    channels: int
    positions: int
    is_stem: bool = False


class Quantiser:
    """Quantises one program.

    Args:
        program: As translated.
        tensors: Its float weights.
        ranges: The largest sizes seen in calibration, by the names of :func:`nelbo.integer.float_executor.run_float`.
        squares: The mean squares seen in calibration.
        n_limbs: Digits into which the float32 executor may split what a convolution reads: with fewer it is faster and
            weights coarser.
    """

    def __init__(
        self,
        program: Program,
        tensors: Tensors,
        ranges: Mapping[str, float],
        squares: Mapping[str, float],
        n_limbs: int,
    ) -> None:
        self.program, self.floats, self.ranges, self.squares = program, tensors, ranges, squares
        self.n_limbs = n_limbs
        self.tensors: Tensors = {}
        self.values: list[_Value] = []

    def run(self) -> tuple[Program, Tensors]:
        """Returns the integer program and its tensors.

        Raises:
            NelboError: If a bound cannot be proved; the message names the operation.
        """
        embedding = self._embedding()
        operations = tuple(self._operation(position, op) for position, op in enumerate(self.program.operations))
        self.tensors |= make_tables()
        return self.program.model_copy(update={"operations": operations, "embedding": embedding}), self.tensors

    def _operation(self, position: int, op: AnyOperation) -> AnyOperation:
        """Returns one operation with its numbers, and notes what its result is like."""
        match op:
            case Features():
                value = self._features(op)
            case Conv():
                op, value = self._conv(position, op)
            case Norm():
                op, value = self._norm(position, op)
            case Attend():
                op, value = self._attend(position, op)
            case Add():
                op = op.model_copy(update={"limit": self._stream_limit(position, FEATURE_BITS)})
                value = replace(self.values[op.left], limit=op.limit)
            case Concat():
                left, right = self.values[op.left], self.values[op.right]
                value = replace(left, limit=max(left.limit, right.limit), channels=left.channels + right.channels)
            case Unshuffle():
                value = _folded(self.values[op.source], op.factor**2)
            case Shuffle():
                value = _folded(self.values[op.source], Fraction(1, op.factor**2))
        self.values.append(value)
        return op

    def _features(self, op: Features) -> _Value:
        channels, height, width = self.program.image_shape
        limit = arithmetic.LATENT_LIMIT >> (arithmetic.LATENT_BITS - STEM_BITS)
        return _Value(STEM_BITS, limit, channels * (1 + 2 * len(op.exponents)), height * width, is_stem=True)

    def _conv(self, position: int, op: Conv) -> tuple[Conv, _Value]:
        source, weight = self.values[op.source], self.floats[f"{position}.weight"]
        in_shift = min(range(_MAX_IN_SHIFT + 1), key=lambda shift: self._conv_error(position, op, shift))
        in_limit, low = self._reach(op, in_shift)
        out_bits = arithmetic.OUTPUT_BITS if self._is_last(position) else FEATURE_BITS
        bits = source.bits - in_shift, out_bits
        shift = self._linear(f"{position}", bits, in_limit, self._bounds(op, in_limit, low))
        limit = self._stream_limit(position, out_bits)
        value = _Value(out_bits, limit, len(weight), source.positions // op.stride**2)
        return op.model_copy(update={"in_shift": in_shift, "in_limit": in_limit, "shift": shift, "limit": limit}), value

    def _bounds(self, op: Conv, in_limit: int, low: int) -> list[Bound]:
        """Returns how large rows of weights may be so that executors sum the products with every digit exactly.

        16-bit integers need a digit less than float32, but for the latent itself, whose last bits tell the most.
        """
        limbs = best_limbs(in_limit, self.n_limbs - (0 if self.values[op.source].is_stem else 1))
        low_of_digits = low / in_limit if limbs.count == 1 else 1.0
        return [
            Bound(FLOAT32.largest_norm(in_limit, best_limbs(in_limit, self.n_limbs))),
            Bound(INT16.largest_norm(in_limit, limbs), low_of_digits),
        ]

    def _conv_error(self, position: int, op: Conv, in_shift: int) -> float:
        """Returns the expected squared error of a convolution that reads coarser values with finer weights."""
        source, weight = self.values[op.source], self.floats[f"{position}.weight"].flatten(1)
        step = row_step(weight, self._bounds(op, *self._reach(op, in_shift)))
        if step is None:
            return math.inf
        of_values = float(weight.square().sum()) * (4.0**in_shift - 1) * 4.0**-source.bits
        return of_values + float(step.square().sum()) * weight.shape[1] * self.squares[f"{op.source}"]

    def _reach(self, op: Conv, in_shift: int) -> tuple[int, int]:
        """Returns how far above and below zero the values go that a convolution reads."""
        limit = self.values[op.source].limit
        low = min(limit, SILU_LOW) if self.program.reads_silu(op) else limit
        return shifted_limit(limit, in_shift), shifted_limit(low, in_shift)

    def _norm(self, position: int, op: Norm) -> tuple[Norm, _Value]:
        for name in ("gain", "offset"):
            self.tensors[f"{position}.{name}"] = _fixed(self.floats[f"{position}.{name}"], WEIGHT_BITS).int()
        bits = TABLE_BITS if op.silu else FEATURE_BITS
        high = math.ceil(TABLE_HEADROOM * self.ranges[f"{position}.norm"] * 2**bits)
        shift = self._norm_shift(position, op, bits)
        op = op.model_copy(update={"shift": shift, "low": LOW_INDEX if op.silu else -high, "high": high})
        limit = _checked(position, silu_limit(high) if op.silu else high, FEATURE_BITS)
        return op, replace(self.values[op.source], bits=FEATURE_BITS, limit=limit)

    def _norm_shift(self, position: int, op: Norm, bits: int) -> int:
        """Returns the most bits that a norm's multiplier can have below the result's without leaving float64."""
        source, condition = self.values[op.source], self._condition_limit(position, op)
        limit = source.limit + (condition if op.condition == "before" else 0)
        n_values = source.channels // op.groups * source.positions
        one = 2**FEATURE_BITS + (condition if op.condition == "modulate" else 0)
        gain = int(self.tensors[f"{position}.gain"].abs().max()) * one
        offset = int(self.tensors[f"{position}.offset"].abs().max()) * one + (condition << WEIGHT_BITS)
        deviation = math.sqrt(op.eps) * 2**FEATURE_BITS
        is_sum_exact = 4 * n_values * limit**2 < EXACT_FLOAT64 and 32 * n_values * limit < EXACT_FLOAT64
        for shift in range(24, GAIN_BITS - bits - 1, -1):
            scale = 2 ** (bits + shift - GAIN_BITS)
            multiplier = gain * scale / deviation + 1
            if is_sum_exact and 32 * multiplier * limit + offset * scale + 2**shift < EXACT_FLOAT64:
                return shift
        raise NelboError(f"freeze: operation {position} (norm) may leave 2^53 on values up to {limit} units")

    def _attend(self, position: int, op: Attend) -> tuple[Attend, _Value]:
        source = self.values[op.source]
        width = source.channels // 3 // op.heads
        unit = 2.0 ** (arithmetic.EXP_BITS - 2 * source.bits) / math.sqrt(width)
        finest = arithmetic.EXP_VALUE_BITS - math.ceil(math.log2(unit))
        shift, multiplier, furthest = finest, 0, EXACT_FLOAT64
        for shift in range(finest, finest - _SPARE_ATTENTION_BITS - 1, -1):
            multiplier = round(unit * 2.0**shift)
            furthest = 2 * source.limit**2 * width * multiplier
            if furthest < EXACT_FLOAT64:
                break
        weighted = source.limit * source.positions << (arithmetic.EXP_VALUE_BITS + 2)
        if max(furthest, weighted) >= EXACT_FLOAT64:
            raise NelboError(f"freeze: operation {position} (attention) may leave 2^53 on values up to {source.limit}")
        op = op.model_copy(update={"multiplier": multiplier, "shift": shift})
        return op, replace(source, channels=source.channels // 3)

    def _embedding(self) -> Embedding:
        """Quantises the layers between gamma and the norms."""
        rates = self.floats["embedding.rates"] / (2 * torch.pi)
        self.tensors["embedding.rates"] = _fixed(rates, arithmetic.RATE_BITS).long()
        limits = [math.ceil(TABLE_HEADROOM * self.ranges[f"embedding.dense{i}"] * 2**TABLE_BITS) for i in range(2)]
        shifts = [
            self._linear("embedding.dense0", (STEM_BITS, TABLE_BITS), 2**STEM_BITS),
            self._linear("embedding.dense1", (FEATURE_BITS, TABLE_BITS), silu_limit(limits[0])),
        ]
        norms = {i: op for i, op in enumerate(self.program.operations) if isinstance(op, Norm)}
        conditioned = {i: op for i, op in norms.items() if op.condition != "none"}
        bits, limit = (FEATURE_BITS, FEATURE_BITS), silu_limit(limits[1])
        numbers = {
            "shifts": tuple(shifts),
            "limits": tuple(limits),
            "condition_shifts": {i: self._linear(f"{i}.condition", bits, limit) for i in conditioned},
            "condition_limits": {i: self._condition_limit(i, op) for i, op in conditioned.items()},
        }
        return self.program.embedding.model_copy(update=numbers)

    def _linear(self, name: str, bits: tuple[int, int], in_limit: int, bounds: Sequence[Bound] = ()) -> int:
        """Quantises one linear layer, keeps its tensors and returns its shift."""
        bounds = bounds or [Bound(EXACT_FLOAT64 // (in_limit << 18))]
        weight, bias = self.floats[f"{name}.weight"], self.floats.get(f"{name}.bias")
        layer = quantise_linear(f"layer {name}", weight, bias, bits, in_limit, bounds)
        for field in ("weight", "multiplier", "offset"):
            self.tensors[f"{name}.{field}"] = getattr(layer, field)
        return layer.shift

    def _stream_limit(self, position: int, bits: int) -> int:
        """Returns the limit of a feature map."""
        return _checked(position, math.ceil(STREAM_HEADROOM * self.ranges[f"{position}"] * 2**bits) + 1, bits)

    def _condition_limit(self, position: int, op: Norm) -> int:
        if op.condition == "none":
            return 0
        return math.ceil(TABLE_HEADROOM * self.ranges[f"{position}.condition"] * 2**FEATURE_BITS) + 1

    def _is_last(self, position: int) -> bool:
        """Returns whether a result is the network's, but for its arrangement."""
        rest = self.program.operations[position + 1 :]
        return all(isinstance(op, Shuffle) for op in rest)


def silu_limit(high: int) -> int:
    """Returns the limit of SiLU's values for arguments up to ``high`` in the table's format."""
    return max(high << (FEATURE_BITS - TABLE_BITS), 2**FEATURE_BITS)


def _checked(position: int, limit: int, bits: int) -> int:
    """Returns the limit of a result, if float32 holds it and the sum of two such exactly."""
    if limit >= EXACT_FLOAT32 // 2:
        raise NelboError(f"freeze: the result of operation {position} may reach {limit >> bits}, too large for float32")
    return limit


def _folded(value: _Value, factor: int | Fraction) -> _Value:
    return replace(value, channels=int(value.channels * factor), positions=int(value.positions / factor))


def _fixed(values: Tensor, bits: int) -> Tensor:
    return (values * 2.0**bits).round()
