"""The sum of two results."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal, no_type_check

import numpy as np
from torch import Tensor

from nelbo.errors import NelboError
from nelbo.integer.feature_map import DigitFormat, Map
from nelbo.integer.operations.operation import (
    Binary,
    Calibration,
    Limit,
    NativeStep,
    Observer,
    Place,
    ReferenceStep,
    Tensors,
    Value,
    checked_limit,
    joined,
    limit_of,
)
from nelbo.runtime.loops import compiled
from nelbo.runtime.threads import share


class Add(Binary):
    """The sum of two results, clamped to its limit."""

    type: Literal["add"] = "add"
    limit: Limit = 0
    scale: ClassVar[Literal["own", "shared", "fixed"]] = "shared"

    def quantise(self, place: Place, seen: Calibration) -> tuple["Add", Tensors]:
        return self.model_copy(update={"limit": limit_of(seen.largest[""], place.sources[0].bits)}), {}

    def bound(self, place: Place, weights: Tensors) -> Value:
        first, second = place.sources
        if first.channels != second.channels:
            raise NelboError(f"it adds {first.channels} channels to {second.channels}")
        limit = checked_limit(self.limit, first.bits)
        return replace(joined(place.sources), limit=limit, low=limit)

    def run_float(
        self, z: Tensor, sources: Sequence[Tensor], condition: Tensor | None, weights: Tensors, observe: Observer
    ) -> Tensor:
        return sources[0] + sources[1]

    def reference(
        self, place: Place, weights: Tensors, tables: Tensors, arithmetic: Literal["float64", "float32"]
    ) -> ReferenceStep:
        return lambda z, sources, condition: (sources[0] + sources[1]).clamp(-self.limit, self.limit)

    def native(self, place: Place, weights: Tensors, tables: Tensors, digits: DigitFormat | None) -> NativeStep:
        def step(z: Tensor, sources: Sequence[Map], condition: Tensor | None) -> Map:
            x, y = (source.values for source in sources)
            out = np.empty_like(x)
            share(len(out), lambda start, stop: add_into(x, y, float(self.limit), out, start, stop))
            return Map(out, sources[0].sides)

        return step


@compiled
@no_type_check
def add_into(x, y, limit, out, start, stop):  # noqa: ANN001, ANN201 (numba infers the types)
    """Writes the clamped sum of two feature maps, for the images from ``start`` to ``stop``."""
    for image in range(start, stop):
        for position in range(x.shape[1]):
            for channel in range(x.shape[2]):
                value = x[image, position, channel] + y[image, position, channel]
                out[image, position, channel] = min(max(value, -limit), limit)
