r"""Attention over all positions, its exponential from a table.

.. math:: p \propto \exp_{\mathrm{table}}\bigl(\lfloor (\max - q \cdot k)\, m\, 2^{-\mathrm{shift}} \rfloor\bigr)
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal, no_type_check

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from nelbo.errors import NelboError
from nelbo.integer.arithmetic import EXACT_FLOAT64, EXP_BITS, EXP_LENGTH, EXP_VALUE_BITS
from nelbo.integer.feature_map import DigitFormat, Map
from nelbo.integer.operations.operation import (
    Calibration,
    Integers,
    NativeStep,
    Observer,
    Place,
    ReferenceStep,
    Shift,
    Small,
    Tensors,
    Unary,
    Value,
)
from nelbo.runtime.loops import compiled
from nelbo.runtime.threads import share

_SPARE_BITS = 4  # Of the 15 of the scale of the logits, where values are large.


class Attend(Unary):
    """Attention; the source's channels are queries, keys and values, each split into heads."""

    type: Literal["attend"] = "attend"
    heads: Small
    multiplier: Annotated[int, Field(ge=0, lt=2**53)] = 0
    shift: Shift = 0

    @property
    def reads_size(self) -> bool:
        return True

    def quantise(self, place: Place, seen: Calibration) -> tuple["Attend", Tensors]:
        source, made = place.sources[0], self
        unit = 2.0 ** (EXP_BITS - 2 * source.bits) / math.sqrt(source.channels // 3 // self.heads)
        finest = EXP_VALUE_BITS - math.ceil(math.log2(unit))
        for shift in range(finest, finest - _SPARE_BITS - 1, -1):
            made = self.model_copy(update={"multiplier": round(unit * 2.0**shift), "shift": shift})
            if made._furthest(source) < EXACT_FLOAT64:
                break
        return made, {}

    def bound(self, place: Place, weights: Tensors) -> Value:
        source = place.sources[0]
        if source.channels % (3 * self.heads):
            raise NelboError(f"{source.channels} channels are no queries, keys and values of {self.heads} heads")
        weighted = source.limit * source.n_positions << (EXP_VALUE_BITS + 2)
        if max(self._furthest(source), weighted) >= EXACT_FLOAT64:
            raise NelboError(f"it may leave 2^53 on values up to {source.limit}")
        n_pairs, channels = source.n_positions**2, source.channels // 3
        return replace(source, channels=channels, work=2 * n_pairs * channels, scratch=2 * n_pairs * self.heads)

    def _furthest(self, source: Value) -> int:
        """Returns the largest distance of two logits, times the multiplier."""
        return 2 * source.limit**2 * (source.channels // 3 // self.heads) * self.multiplier

    def run_float(
        self, z: Tensor, sources: Sequence[Tensor], condition: Tensor | None, weights: Tensors, observe: Observer
    ) -> Tensor:
        x = sources[0]
        q, k, v = x.flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2).unbind(1)
        p = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
        return (p @ v).transpose(-1, -2).reshape(len(x), -1, *x.shape[2:])

    def reference(
        self, place: Place, weights: Tensors, tables: Tensors, arithmetic: Literal["float64", "float32"]
    ) -> ReferenceStep:
        def step(z: Integers, sources: Sequence[Integers], condition: Tensor | None) -> Integers:
            x = sources[0]
            q, k, v = x.flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2).unbind(1)
            logits = q @ k.transpose(-1, -2)
            below = (logits.amax(-1, keepdim=True) - logits) * float(self.multiplier)
            p = tables["exp"][(below * 0.5**self.shift).floor().clamp(max=EXP_LENGTH).long()].double()
            return _mean(p, v).transpose(-1, -2).reshape(len(x), -1, *x.shape[2:])

        return step

    def native(self, place: Place, weights: Tensors, tables: Tensors, digits: DigitFormat | None) -> NativeStep:
        table = tables["exp"].numpy()

        def step(z: Tensor, sources: Sequence[Map], condition: Tensor | None) -> Map:
            x = sources[0]
            batch, n_positions = x.values.shape[:2]
            parts = torch.from_numpy(x.values).double().view(batch, n_positions, 3, self.heads, -1)
            q, k, v = parts.permute(2, 0, 3, 1, 4).unbind()
            p = q @ k.transpose(-1, -2)
            rows, n = p.view(-1, n_positions).numpy(), self.heads * n_positions
            arguments = rows, float(self.multiplier), 0.5**self.shift, table
            share(batch, lambda start, stop: fall_into(*arguments, start * n, stop * n))
            mean = _mean(p, v).transpose(1, 2).float()
            return Map(mean.reshape(batch, n_positions, -1).contiguous().numpy(), x.sides)

        return step


def _mean(p: Tensor, v: Tensor) -> Tensor:
    """Returns means of values weighted by p, rounded to the nearest, halves up."""
    total = p.sum(-1, keepdim=True)
    return ((2 * (p @ v) + total) / (2 * total)).floor()


@compiled
@no_type_check
def fall_into(logits, multiplier, scale, table, start, stop):  # noqa: ANN001, ANN201 (numba infers the types)
    """Replaces each logit by the exponential, from the table, of its distance from the largest in its row."""
    last = table.size - 1
    for row in range(start, stop):
        top = logits[row].max()
        for column in range(logits.shape[1]):
            below = np.floor((top - logits[row, column]) * multiplier * scale)
            logits[row, column] = table[np.uint32(min(below, float(last)))]
