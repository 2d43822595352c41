"""The input of a network: the latent, and the sines and cosines of its multiples."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from nelbo.integer.arithmetic import LATENT_BITS, LATENT_LIMIT, PHASE_BITS, STEM_BITS, floor_shift
from nelbo.integer.feature_map import DigitFormat, Map
from nelbo.integer.operations.operation import (
    Integers,
    NativeStep,
    Observer,
    Operation,
    Place,
    ReferenceStep,
    Tensors,
    Value,
)


class Features(Operation):
    r"""The latent z in channels, then :math:`\sin(2^n \pi z)` and then :math:`\cos(2^n \pi z)` for each exponent n."""

    type: Literal["features"] = "features"
    exponents: tuple[Annotated[int, Field(ge=0, le=16)], ...]

    def bound(self, place: Place, weights: Tensors) -> Value:
        channels, height, width = place.image_shape
        limit = LATENT_LIMIT >> (LATENT_BITS - STEM_BITS)
        channels *= 1 + 2 * len(self.exponents)
        return Value(channels, height, width, STEM_BITS, limit, limit, is_latent=True)

    def run_float(
        self, z: Tensor, sources: Sequence[Tensor], condition: Tensor | None, weights: Tensors, observe: Observer
    ) -> Tensor:
        frequencies = torch.tensor([2.0**n * math.pi for n in self.exponents], dtype=z.dtype)
        phases = (z[:, :, None] * frequencies[:, None, None]).flatten(1, 2)
        return torch.cat([z, phases.sin(), phases.cos()], dim=1)

    def reference(
        self, place: Place, weights: Tensors, tables: Tensors, arithmetic: Literal["float64", "float32"]
    ) -> ReferenceStep:
        return lambda z, sources, condition: self._of(z, tables["sine"])

    def native(self, place: Place, weights: Tensors, tables: Tensors, digits: DigitFormat | None) -> NativeStep:
        return lambda z, sources, condition: Map.of(self._of(z, tables["sine"]))

    def _of(self, z: Integers, sine: Tensor) -> Integers:
        parts = [floor_shift(z, LATENT_BITS - STEM_BITS)]
        if self.exponents:
            shifts = [PHASE_BITS + n - 1 - LATENT_BITS for n in self.exponents]
            phases = torch.stack([(z * 2.0**shift).floor() for shift in shifts], 2).flatten(1, 2).long()
            mask, quarter = 2**PHASE_BITS - 1, 2 ** (PHASE_BITS - 2)
            parts += [sine[phases & mask].double(), sine[(phases + quarter) & mask].double()]
        return torch.cat(parts, dim=1)
