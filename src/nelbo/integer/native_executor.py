"""The fast executor for CPUs: all in compiled loops, convolutions of 16-bit integers.

Feature maps are (batch, position, channel) in float32, what convolutions read is (digit, batch, row, column, channel),
in most cases a single digit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nelbo.errors import NelboError
from nelbo.integer import arithmetic, native_loops
from nelbo.integer.arithmetic import FEATURE_BITS, GAIN_BITS, INT16, TABLE_BITS, Limbs, fewest_limbs, shifted_limit
from nelbo.integer.linear import largest_sum, row_norm
from nelbo.integer.native_convolution import convolve_into, packed, padded
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
from nelbo.integer.reference_executor import Conditions, Integers, features, floor_shift
from nelbo.runtime.threads import share


@dataclass(frozen=True)
class _Map:
    """A feature map: its values, (batch, position, channel) in float32, or their digits; its height and width."""

    values: np.ndarray
    sides: tuple[int, int]

    @property
    def images(self) -> Tensor:
        """The values as images, (batch, channel, height, width), in memory channels last.

        NumPy makes views several times faster than PyTorch, which counts for one image.
        """
        rows = self.values.reshape(-1, *self.sides, self.values.shape[-1])
        return torch.from_numpy(rows.transpose(0, 3, 1, 2))


class NativeExecutor:
    """Runs a program on the CPU.

    Args:
        program: Quantised.
        tensors: Its integers.

    Raises:
        NelboError: If a convolution needs too many digits of 16 bits.
    """

    def __init__(self, program: Program, tensors: Mapping[str, Tensor]) -> None:
        self.program = program
        self._last_uses = program.last_uses()
        self._sine, self._exp = tensors["table.sine"], tensors["table.exp"].double().numpy()
        self._silu = tensors["table.silu"].numpy().astype(np.float32)
        operations = list(enumerate(program.operations))
        lowest = -int(tensors["table.silu"].min())
        self._convs = {
            i: _Conv(i, op, tensors, lowest if program.reads_silu(op) else None)
            for i, op in operations
            if isinstance(op, Conv)
        }
        self._norms = {i: _Norm(i, op, tensors, self._reader(i)) for i, op in operations if isinstance(op, Norm)}

    def run(self, z: Integers, conditions: Conditions) -> Integers:
        """Returns the network's result for latents of one gamma."""
        z = z.clamp(-arithmetic.LATENT_LIMIT, arithmetic.LATENT_LIMIT)
        results: dict[int, _Map] = {}
        for position, op in enumerate(self.program.operations):
            sources = [results[source] for source in op.sources]
            results[position] = self._operate(position, op, z, sources, conditions)
            for source in self._last_uses[position]:
                del results[source]
        result = results.popitem()[1].images.double().contiguous()
        if self.program.adds_latent:
            result = result + floor_shift(z, arithmetic.LATENT_BITS - arithmetic.OUTPUT_BITS)
        return result

    def _operate(self, position: int, op: AnyOperation, z: Tensor, sources: list[_Map], conditions: Conditions) -> _Map:
        match op:
            case Features():
                return _as_map(features(op, z, self._sine))
            case Conv():
                is_split = isinstance(self.program.operations[op.source], Norm)
                return self._convs[position](sources[0] if is_split else self._convs[position].split(sources[0]))
            case Norm():
                return self._norms[position](sources[0], conditions.get(position), self._silu)
            case Attend():
                return _attend(op, sources[0], self._exp)
            case Add():
                return _add(sources[0], sources[1], op.limit)
            case Concat():
                return _Map(np.concatenate([source.values for source in sources], axis=2), sources[0].sides)
            case Shuffle():
                return _as_map(torch.pixel_shuffle(sources[0].images, op.factor))
            case Unshuffle():
                return _as_map(torch.pixel_unshuffle(sources[0].images, op.factor))

    def _reader(self, position: int) -> "_Conv":
        """Returns the convolution that reads a norm's result, in whose digits the norm writes it."""
        reader = self.program.reader(position)
        if reader not in self._convs:
            raise NelboError(f"operation {position} (norm) is read by something else than one convolution")
        return self._convs[reader]


class _Conv:
    """One convolution; ``low`` is how far below zero the values go that it reads, if less far than above."""

    def __init__(self, position: int, op: Conv, tensors: Mapping[str, Tensor], low: int | None) -> None:
        weight = tensors[f"{position}.weight"]
        limbs = _limbs(op, weight, op.in_limit if low is None else shifted_limit(low, op.in_shift))
        if limbs is None or int(weight.abs().max()) > INT16.digit:
            raise NelboError(f"operation {position} has too many products for int16: use the executor 'reference'")
        self.op, self.limbs = op, limbs
        self._weight = packed(weight.numpy())
        self._multiplier = tensors[f"{position}.multiplier"].double().numpy()
        self._offset = tensors[f"{position}.offset"].double().numpy()
        self._n_out = len(weight)

    def empty(self, n_images: int, sides: tuple[int, int], n_channels: int) -> np.ndarray:
        """Returns the place for the digits of what it reads, zeros around it."""
        return padded(self.limbs.count, n_images, sides, n_channels, self.op.padding)

    def split(self, x: _Map) -> _Map:
        """Returns the digits of a feature map."""
        out = self.empty(len(x.values), x.sides, x.values.shape[2])
        arguments = x.values, self.op.in_shift, self.limbs.count, self.limbs.bits, out, self.op.padding
        share(len(x.values), lambda start, stop: native_loops.split_into(*arguments, start, stop))
        return _Map(out, x.sides)

    def __call__(self, digits: _Map) -> _Map:
        """Returns the convolution of an integer feature map given by its digits."""
        op, size = self.op, self._weight.shape[1]
        if digits.values.shape[4] * size != 2 * self._weight.shape[2]:  # The loops would read what lies behind.
            raise NelboError(f"a convolution of the frozen network does not fit its {digits.values.shape[4]} channels")
        height, width = ((side + 2 * op.padding - size) // op.stride + 1 for side in digits.sides)
        out = np.empty((digits.values.shape[1], height * width, self._n_out), np.float32)
        line = self._multiplier, self._offset, 0.5**op.shift, float(op.limit)
        arguments = digits.values, self._weight, op.stride, self.limbs.bits, *line, out
        n_rows = len(out) * len(self._weight) * height
        share(n_rows, lambda start, stop: convolve_into(*arguments, start, stop))
        return _Map(out, (height, width))


def _limbs(op: Conv, weight: Tensor, low: int) -> Limbs | None:
    """Returns the fewest digits for what a convolution reads, integers from -low to its limit."""
    if max(low, op.in_limit) <= INT16.digit and largest_sum(weight, low, op.in_limit) <= INT16.total:
        return Limbs(count=1, bits=1)
    return fewest_limbs(op.in_limit, row_norm(weight), INT16)


class _Norm:
    """One norm, its result in the digits of the convolution that reads it."""

    def __init__(self, position: int, op: Norm, tensors: Mapping[str, Tensor], reader: _Conv) -> None:
        self.op, self._reader = op, reader
        self._gain = tensors[f"{position}.gain"].double().numpy()
        self._offset = tensors[f"{position}.offset"].double().numpy()
        self._eps = op.eps * 4.0**FEATURE_BITS
        self._line = lru_cache(maxsize=128)(self._make_line)  # A level's conditioning is one tensor, made once.
        self._point = 2.0 ** (op.shift + (TABLE_BITS if op.silu else FEATURE_BITS) - GAIN_BITS)

    def __call__(self, x: _Map, condition: Tensor | None, silu: np.ndarray) -> _Map:
        """Returns the digits of the normalised feature map."""
        op, limbs = self.op, self._reader.limbs
        before, gain, offset = self._line(condition)
        out = self._reader.empty(len(x.values), x.sides, x.values.shape[2])

        def work(start: int, stop: int) -> None:
            native_loops.norm_into(
                x.values,
                before,
                gain,
                offset,
                op.groups,
                self._eps,
                self._point,
                op.shift,
                float(op.low),
                float(op.high),
                op.silu,
                silu,
                self._reader.op.in_shift,
                limbs.count,
                limbs.bits,
                out,
                self._reader.op.padding,
                start,
                stop,
            )

        share(len(x.values), work)
        return _Map(out, x.sides)

    def _make_line(self, condition: Tensor | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns what is added to the channels beforehand, and their gain and offset afterwards."""
        before = np.zeros_like(self._gain)
        gain, offset = self._gain * 2.0**FEATURE_BITS, self._offset * 2.0**FEATURE_BITS
        if condition is not None and self.op.condition == "before":
            before = condition.numpy()
        elif condition is not None:
            scale, shift = (part.numpy() for part in condition.chunk(2))
            gain = gain + self._gain * scale
            offset = offset + self._offset * scale + shift * 2.0**arithmetic.WEIGHT_BITS
        return before, gain, offset


def _as_map(images: Tensor) -> _Map:
    height, width = images.shape[2:]
    values = images.float().movedim(1, -1).reshape(len(images), height * width, -1).contiguous()
    return _Map(values.numpy(), (height, width))


def _add(x: _Map, y: _Map, limit: int) -> _Map:
    out = np.empty_like(x.values)
    share(len(out), lambda start, stop: native_loops.add_into(x.values, y.values, float(limit), out, start, stop))
    return _Map(out, x.sides)


def _attend(op: Attend, x: _Map, table: np.ndarray) -> _Map:
    """Returns the attention of queries, keys and values that stand in channels one after the other."""
    batch, n_positions = x.values.shape[:2]
    parts = torch.from_numpy(x.values).double().view(batch, n_positions, 3, op.heads, -1)
    q, k, v = parts.permute(2, 0, 3, 1, 4).unbind()
    p = q @ k.transpose(-1, -2)
    rows, n = p.view(-1, n_positions).numpy(), op.heads * n_positions
    share(
        batch,
        lambda start, stop: native_loops.fall_into(
            rows, float(op.multiplier), 0.5**op.shift, table, start * n, stop * n
        ),
    )
    total = p.sum(-1, keepdim=True)
    mean = ((2 * (p @ v) + total) / (2 * total)).floor()
    return _Map(mean.transpose(1, 2).float().reshape(batch, n_positions, -1).contiguous().numpy(), x.sides)
