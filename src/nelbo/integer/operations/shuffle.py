"""Pixels that become channels, and channels that become pixels."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from nelbo.errors import NelboError
from nelbo.integer.operations.operation import Arrangement, Place, Small, Tensors, Unary, Value


class Unshuffle(Arrangement, Unary):
    """Space to depth: squares of ``factor`` x ``factor`` pixels become channels."""

    type: Literal["unshuffle"] = "unshuffle"
    factor: Small

    def bound(self, place: Place, weights: Tensors) -> Value:
        (source,), n = place.sources, self.factor
        if source.height % n or source.width % n:
            raise NelboError(f"{source.height} x {source.width} positions are no squares of {n} x {n}")
        return _arranged(source, source.channels * n**2, source.height // n, source.width // n)

    def arranged(self, sources: Sequence[Tensor]) -> Tensor:
        return pixel_unshuffle(sources[0], self.factor)


class Shuffle(Arrangement, Unary):
    """Depth to space, the inverse of :class:`Unshuffle`."""

    type: Literal["shuffle"] = "shuffle"
    factor: Small
    only_arranges: ClassVar[bool] = True

    def bound(self, place: Place, weights: Tensors) -> Value:
        (source,), n = place.sources, self.factor
        if source.channels % n**2:
            raise NelboError(f"{source.channels} channels are no squares of {n} x {n} pixels")
        return _arranged(source, source.channels // n**2, source.height * n, source.width * n)

    def arranged(self, sources: Sequence[Tensor]) -> Tensor:
        return pixel_shuffle(sources[0], self.factor)


def _arranged(source: Value, channels: int, height: int, width: int) -> Value:
    return replace(source, channels=channels, height=height, width=width, work=0, scratch=0)
