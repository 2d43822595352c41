"""The channels of two results, one after the other."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nelbo.integer.feature_map import DigitFormat, Map
from nelbo.integer.operations.operation import Arrangement, Binary, NativeStep, Place, Tensors, Value, joined


class Concat(Arrangement, Binary):
    """The channels of two results, one after the other."""

    type: Literal["concat"] = "concat"

    def bound(self, place: Place, weights: Tensors) -> Value:
        return replace(joined(place.sources), channels=sum(source.channels for source in place.sources))

    def arranged(self, sources: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(sources), dim=1)

    def native(self, place: Place, weights: Tensors, tables: Tensors, digits: DigitFormat | None) -> NativeStep:
        return lambda z, sources, condition: Map(
            np.concatenate([source.values for source in sources], axis=2), sources[0].sides
        )
