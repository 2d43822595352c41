r"""Group norms in integers, modulated or fed by the conditioning, and SiLU after them.

Each group's sums are exact; its deviation is one IEEE square root and each channel's multiplier one IEEE division,
which are correctly rounded everywhere. With a channel's integer gain g and offset b, the mean in sixteenths
:math:`\mu_{16}` and the deviation :math:`\sigma` of its group,

.. math:: m = \lfloor 2^p\, g / \sigma \rfloor, \qquad
          y = \mathrm{clamp}\bigl(\lfloor (m x + 2^p b - \lfloor m \mu_{16} / 16 \rfloor + 2^{\mathrm{shift} - 1})\,
          2^{-\mathrm{shift}} \rfloor\bigr)
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import group_norm, silu

from nelbo.errors import NelboError
from nelbo.integer.arithmetic import (
    EXACT_FLOAT64,
    FEATURE_BITS,
    GAIN_BITS,
    LOW_INDEX,
    SILU_LOW,
    TABLE_BITS,
    TABLE_HEADROOM,
    WEIGHT_BITS,
    fixed,
    silu_limit,
)
from nelbo.integer.feature_map import DigitFormat, Digits, Map
from nelbo.integer.operations.norm_loops import norm_into
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
    Unary,
    Value,
    checked_limit,
)
from nelbo.integer.tables import silu_of
from nelbo.integer.tensors import Tensors, tensor_of
from nelbo.runtime.threads import share

_MOST_SHIFT = 24

Condition = Literal["none", "before", "modulate"]
Lines = tuple[np.ndarray, np.ndarray, np.ndarray]


class Norm(Unary):
    """A group norm; ``gain`` and ``offset`` stand beside it.

    ``condition`` says how the conditioning enters: not at all, as a shift before the norm (``before``), or as a scale
    and a shift after it (``modulate``). The result of the norm is clamped to [low, high].
    """

    type: Literal["norm"] = "norm"
    groups: Small
    eps: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    silu: bool
    condition: Condition
    shift: Shift = 0
    low: Annotated[int, Field(gt=-(2**24), le=0)] = 0
    high: Limit = 0
    scale: ClassVar[Literal["own", "shared", "fixed"]] = "fixed"

    @classmethod
    def of(
        cls, module: nn.GroupNorm, source: int, name: str, silu: bool, condition: Condition = "none"
    ) -> tuple["Norm", dict[str, Tensor | None]]:
        """Returns the operation of a group norm, with SiLU after it or not, and its weights.

        Raises:
            NelboError: If the module has no gain and offset.
        """
        if not module.affine:
            raise NelboError(f"freeze: {name} has no gain and offset")
        made = cls(source=source, groups=module.num_groups, eps=module.eps, silu=silu, condition=condition)
        return made, {"gain": module.weight, "offset": module.bias}

    @property
    def reads_size(self) -> bool:
        return self.condition == "before"

    def n_conditions(self, channels: int) -> int:
        return {"none": 0, "before": 1, "modulate": 2}[self.condition] * channels

    @property
    def _bits(self) -> int:
        """Fractional bits of the norm itself, before SiLU."""
        return TABLE_BITS if self.silu else FEATURE_BITS

    @property
    def _point(self) -> float:
        """What gains and offsets are multiplied by."""
        return 2.0 ** (self.shift + self._bits - GAIN_BITS)

    def quantise(self, place: Place, seen: Calibration) -> tuple["Norm", Tensors]:
        tensors = {name: fixed(seen.weights[name], WEIGHT_BITS).int() for name in ("gain", "offset")}
        high = math.ceil(TABLE_HEADROOM * seen.largest["norm"] * 2**self._bits)
        made = self.model_copy(update={"low": LOW_INDEX if self.silu else -high, "high": high})
        for shift in range(_MOST_SHIFT, GAIN_BITS - self._bits - 1, -1):  # As many bits as float64 holds.
            made = made.model_copy(update={"shift": shift})
            if made._is_exact(place, tensors):
                break
        return made, tensors

    def bound(self, place: Place, weights: Tensors) -> Value:
        source = place.sources[0]
        if source.channels % self.groups:
            raise NelboError(f"{source.channels} channels do not go into {self.groups} groups")
        for name in ("gain", "offset"):
            tensor_of(weights, name, torch.int32, (source.channels,))
        if not GAIN_BITS - self._bits <= self.shift <= _MOST_SHIFT or not self._is_exact(place, weights):
            raise NelboError(f"it may leave 2^53 on values up to {source.limit} units")
        if self.low != (LOW_INDEX if self.silu else -self.high):
            raise NelboError(f"its lower limit is {self.low}")
        limit = checked_limit(silu_limit(self.high) if self.silu else self.high, FEATURE_BITS)
        low = min(limit, SILU_LOW) if self.silu else limit
        return replace(source, bits=FEATURE_BITS, limit=limit, low=low, work=4 * source.size, scratch=0)

    def _is_exact(self, place: Place, weights: Tensors) -> bool:
        """Returns whether no sum leaves 2^53."""
        (source,), condition = place.sources, place.condition_limit
        limit = source.limit + (condition if self.condition == "before" else 0)
        n = source.channels // self.groups * source.n_positions
        if 4 * n * limit**2 >= EXACT_FLOAT64 or 32 * n * limit >= EXACT_FLOAT64:
            return False
        one = 2**FEATURE_BITS + (condition if self.condition == "modulate" else 0)
        gain = int(weights["gain"].long().abs().max()) * one
        offset = int(weights["offset"].long().abs().max()) * one + (condition << WEIGHT_BITS)
        multiplier = gain * self._point / (math.sqrt(self.eps) * 2**FEATURE_BITS) + 1
        return 32 * multiplier * limit + offset * self._point + 2**self.shift < EXACT_FLOAT64

    def run_float(
        self, z: Tensor, sources: Sequence[Tensor], condition: Tensor | None, weights: Tensors, observe: Observer
    ) -> Tensor:
        x = sources[0]
        if condition is not None and self.condition == "before":
            x = x + condition[:, None, None]
        y = group_norm(x, self.groups, weights["gain"], weights["offset"], self.eps)
        if condition is not None and self.condition == "modulate":
            scale, shift = condition[:, None, None].chunk(2)
            y = y * (1 + scale) + shift
        observe("norm", y)
        return silu(y) if self.silu else y

    def reference(
        self, place: Place, weights: Tensors, tables: Tensors, arithmetic: Literal["float64", "float32"]
    ) -> ReferenceStep:
        def step(z: Integers, sources: Sequence[Integers], condition: Tensor | None) -> Integers:
            before, gain, offset = self._line(weights, condition)
            x = sources[0] + before[:, None, None]
            mean, deviation = self._statistics(x)
            multiplier = (gain / deviation * self._point).floor()
            start = offset * self._point - (multiplier * mean * 0.0625).floor() + 2.0 ** (self.shift - 1)
            y = x * multiplier[:, :, None, None] + start[:, :, None, None]
            y = (y * 0.5**self.shift).floor().clamp(self.low, self.high)
            return silu_of(y, tables["silu"]) if self.silu else y

        return step

    def _line(self, weights: Tensors, condition: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns what is added to the channels beforehand, and their gain and offset afterwards."""
        plain_gain, plain_offset = weights["gain"].double(), weights["offset"].double()
        gain, offset = plain_gain * 2.0**FEATURE_BITS, plain_offset * 2.0**FEATURE_BITS
        before = torch.zeros_like(gain)
        if condition is not None and self.condition == "before":
            before = condition.to(gain.device)
        elif condition is not None and self.condition == "modulate":
            scale, shift = condition.to(gain.device).chunk(2)
            gain = gain + plain_gain * scale
            offset = offset + plain_offset * scale + shift * 2.0**WEIGHT_BITS
        return before, gain, offset

    def _statistics(self, x: Integers) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
        """Returns for each channel its group's mean in sixteenths of a unit, and its standard deviation in units."""
        groups = x.reshape(len(x), self.groups, -1)
        n = groups.shape[2]
        total, squares = groups.sum(2), (groups * groups).sum(2)
        near = (total / n).floor()  # An integer near the mean keeps what follows small, and thereby exact.
        spread = squares - near * (2 * total - n * near)
        deviation = (spread / n + self.eps * 4.0**FEATURE_BITS).sqrt()
        per_group = x.shape[1] // self.groups
        mean, deviation = (v.repeat_interleave(per_group, dim=1) for v in ((total * 16 / n).floor(), deviation))
        return mean, deviation

    def native(self, place: Place, weights: Tensors, tables: Tensors, digits: DigitFormat | None) -> NativeStep:
        if digits is None:
            raise NelboError(f"operation {place.position} (norm) is read by something else than one convolution")
        limits = self.shift, float(self.low), float(self.high)
        norm = self.groups, self.eps * 4.0**FEATURE_BITS, self._point, *limits
        after = self.silu, tables["silu"].numpy()
        form = digits.in_shift, digits.limbs.count, digits.limbs.bits

        @lru_cache(maxsize=128)  # A level's conditioning is one tensor, made once.
        def lines(condition: Tensor | None) -> Lines:
            before, gain, offset = self._line(weights, condition)
            return before.numpy(), gain.numpy(), offset.numpy()

        def step(z: Tensor, sources: Sequence[Map], condition: Tensor | None) -> Digits:
            x = sources[0]
            out = digits.empty(len(x.values), x.sides, x.values.shape[2])
            arguments = x.values, *lines(condition), *norm, *after, *form, out, digits.padding
            share(len(x.values), lambda start, stop: norm_into(*arguments, start, stop))
            return Digits(out, x.sides)

        return step
