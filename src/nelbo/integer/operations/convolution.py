r"""Convolutions of integers.

.. math:: y = \mathrm{clamp}\bigl(\lfloor (m \sum w \hat x + b)\, 2^{-\mathrm{shift}} \rfloor,\ \pm\mathrm{limit}
          \bigr), \qquad \hat x = \lfloor x\, 2^{-\mathrm{in\_shift}} + \tfrac12 \rfloor

Sums of products stay below 2^53 in float64. In float32 and in 16-bit integers :math:`\hat x` is split into as many
digits as it takes for the sums of every digit to be exact (:mod:`nelbo.integer.arithmetic`).
"""

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import conv2d, unfold

from nelbo.errors import NelboError
from nelbo.integer.arithmetic import (
    FLOAT32,
    INT16,
    Limbs,
    best_limbs,
    fewest_limbs,
    floor_shift,
    join,
    shifted_limit,
    split,
)
from nelbo.integer.feature_map import DigitFormat, Digits, Map
from nelbo.integer.linear import Bound, check_sums, largest_sum, linear_of, quantise_linear, row_norm, row_step
from nelbo.integer.operations.convolution_loops import convolve_into, packed
from nelbo.integer.operations.operation import (
    Calibration,
    Integers,
    Limit,
    NativeStep,
    Observer,
    Place,
    ReferenceStep,
    Shift,
    Small,
    Tensors,
    Unary,
    Value,
    checked_limit,
    limit_of,
)
from nelbo.runtime.threads import share

_MAX_IN_SHIFT = 8


class Conv(Unary):
    """A convolution with a square filter; ``weight``, ``multiplier`` and ``offset`` stand beside it."""

    type: Literal["conv"] = "conv"
    stride: Small
    padding: Annotated[int, Field(ge=0, le=1 << 16)]
    in_shift: Annotated[int, Field(ge=0, le=24)] = 0
    in_limit: Limit = 0
    shift: Shift = 0
    limit: Limit = 0
    scale: ClassVar[Literal["own", "shared", "fixed"]] = "own"

    @classmethod
    def of(cls, module: nn.Module, source: int, name: str) -> tuple["Conv", dict[str, Tensor | None]]:
        """Returns a convolution and its weights, from a module with as wide a padding on every side, and zeros there.

        Raises:
            NelboError: If the module is something else.
        """
        if not isinstance(module, nn.Conv2d) or not _is_plain(module):
            raise NelboError(f"freeze: {name} is no plain convolution: {module}")
        made = cls(source=source, stride=module.stride[0], padding=int(module.padding[0]))
        return made, {"weight": module.weight, "bias": module.bias}

    def rescaled(self, weights: Tensors, own: float, source: float) -> Tensors:
        made = {"weight": weights["weight"] * own / source}
        return made | ({"bias": weights["bias"] * own} if "bias" in weights else {})

    def quantise(self, place: Place, seen: Calibration) -> tuple["Conv", Tensors]:
        source, weight = place.sources[0], seen.weights["weight"]
        in_shift = min(range(_MAX_IN_SHIFT + 1), key=lambda shift: _error(source, seen, shift))
        bits, bounds = (source.bits - in_shift, place.out_bits), _bounds(source, seen, in_shift)
        in_limit = shifted_limit(source.limit, in_shift)
        layer = quantise_linear(weight, seen.weights.get("bias"), bits, in_limit, bounds)
        limit = limit_of(seen.largest[""], place.out_bits)
        numbers = {"in_shift": in_shift, "in_limit": in_limit, "shift": layer.shift, "limit": limit}
        return self.model_copy(update=numbers), layer.tensors()

    def bound(self, place: Place, weights: Tensors) -> Value:
        source = place.sources[0]
        weight, multiplier, offset = linear_of(weights, "", (source.channels, None, None))
        n_out, n_in, size, width = weight.shape
        if size != width or self.padding >= size or self.stride > size:
            raise NelboError(
                f"its filter of {size} x {width} does not go with stride {self.stride} and padding {self.padding}"
            )
        if self.in_limit < shifted_limit(source.limit, self.in_shift):
            raise NelboError(f"it reads values up to {source.limit}, more than its limit {self.in_limit}")
        check_sums(weight, multiplier, offset, self.in_limit)
        height, width = self._sides(size, (source.height, source.width))
        if min(height, width) < 1:
            raise NelboError(f"its filter is larger than {source.height} x {source.width} positions")
        limit, n = checked_limit(self.limit, place.out_bits), n_in * size**2
        return Value(n_out, height, width, place.out_bits, limit, limit, n * n_out * height * width, n * height * width)

    def run_float(
        self, z: Tensor, sources: Sequence[Tensor], condition: Tensor | None, weights: Tensors, observe: Observer
    ) -> Tensor:
        return conv2d(sources[0], weights["weight"], weights.get("bias"), self.stride, self.padding)

    def reference(
        self, place: Place, weights: Tensors, tables: Tensors, arithmetic: Literal["float64", "float32"]
    ) -> ReferenceStep:
        size, limbs = weights["weight"].shape[-1], Limbs(1, 1)
        multiplier, offset = weights["multiplier"][:, None], weights["offset"][:, None]
        if arithmetic == "float32":
            limbs = fewest_limbs(self.in_limit, row_norm(weights["weight"]), FLOAT32)
            if limbs is None:
                raise NelboError(
                    f"operation {place.position} has too many products for float32: use the executor 'reference'"
                )
        rows = weights["weight"].flatten(1).to(torch.float64 if arithmetic == "float64" else torch.float32)

        def step(z: Integers, sources: Sequence[Integers], condition: Tensor | None) -> Integers:
            x = floor_shift(sources[0], self.in_shift)
            columns: Float[Tensor, "b k n"] = unfold(x, size, padding=self.padding, stride=self.stride)
            total = join([rows @ digit for digit in split(columns.to(rows.dtype), limbs)], limbs)
            total = total * multiplier + offset
            result = (total * 0.5**self.shift).floor().clamp(-self.limit, self.limit)
            return result.unflatten(2, self._sides(size, (x.shape[2], x.shape[3])))

        return step

    def digits(self, place: Place, weights: Tensors) -> DigitFormat:
        weight, low = weights["weight"], shifted_limit(place.sources[0].low, self.in_shift)
        if max(low, self.in_limit) <= INT16.digit and largest_sum(weight, low, self.in_limit) <= INT16.total:
            limbs = Limbs(count=1, bits=1)
        else:
            limbs = fewest_limbs(self.in_limit, row_norm(weight), INT16)
        if limbs is None or int(weight.abs().max()) > INT16.digit:
            raise NelboError(
                f"operation {place.position} has too many products for int16: use the executor 'reference'"
            )
        return DigitFormat(limbs, self.in_shift, self.padding)

    def native(self, place: Place, weights: Tensors, tables: Tensors, digits: DigitFormat | None) -> NativeStep:
        form, weight = self.digits(place, weights), packed(weights["weight"].numpy())
        n_out, size = len(weights["weight"]), weight.shape[1]
        multiplier, offset = (weights[name].double().numpy() for name in ("multiplier", "offset"))
        line = multiplier, offset, 0.5**self.shift, float(self.limit)

        def step(z: Tensor, sources: Sequence[Map | Digits], condition: Tensor | None) -> Map:
            x = sources[0] if isinstance(sources[0], Digits) else form.split(sources[0])
            height, width = self._sides(size, x.sides)
            out = np.empty((x.values.shape[1], height * width, n_out), np.float32)
            arguments = x.values, weight, self.stride, form.limbs.bits, *line, out
            share(len(out) * len(weight) * height, lambda start, stop: convolve_into(*arguments, start, stop))
            return Map(out, (height, width))

        return step

    def _sides(self, size: int, sides: tuple[int, int]) -> tuple[int, int]:
        """Returns the height and width of the result, for a filter of some size."""
        height, width = ((side + 2 * self.padding - size) // self.stride + 1 for side in sides)
        return height, width


def _is_plain(conv: nn.Conv2d) -> bool:
    is_square = all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding))
    has_zeros = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return is_square and has_zeros and conv.groups == 1 and conv.dilation == (1, 1)


def _bounds(source: Value, seen: Calibration, in_shift: int) -> list[Bound]:
    """Returns how large rows of weights may be so that executors sum the products with every digit exactly.

    16-bit integers need a digit less than float32, but for the latent itself, whose last bits count the most.
    """
    in_limit, low = (shifted_limit(limit, in_shift) for limit in (source.limit, source.low))
    limbs = best_limbs(in_limit, seen.n_limbs - (0 if source.is_latent else 1))
    low_of_digits = low / in_limit if limbs.count == 1 else 1.0
    return [
        Bound(FLOAT32.largest_norm(in_limit, best_limbs(in_limit, seen.n_limbs))),
        Bound(INT16.largest_norm(in_limit, limbs), low_of_digits),
    ]


def _error(source: Value, seen: Calibration, in_shift: int) -> float:
    """Returns the expected squared error of a convolution that reads coarser values with finer weights."""
    weight = seen.weights["weight"].flatten(1)
    step = row_step(weight, _bounds(source, seen, in_shift))
    if step is None:
        return math.inf
    of_values = float(weight.square().sum()) * (4.0**in_shift - 1) * 4.0**-source.bits
    return of_values + float(step.square().sum()) * weight.shape[1] * seen.squares[0]
