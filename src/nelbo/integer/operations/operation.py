"""What an operation brings: its record in a program, and everything that the rest of the package asks of it.

A member of the family is one class. It computes in floating point, in integers by plain PyTorch (the specification),
and in integers by compiled loops; it chooses its integers from the ranges seen in calibration; and it proves, for
integers from anywhere, that all its sums are exact and all its reads stay inside its arrays.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt
from torch import Tensor

from nelbo.errors import NelboError
from nelbo.integer.arithmetic import EXACT_FLOAT32, FEATURE_BITS, OUTPUT_BITS, STREAM_HEADROOM
from nelbo.integer.feature_map import DigitFormat, Digits, Map
from nelbo.integer.tensors import Tensors

Integers = Float[Tensor, "b _ _ _"]  # Integers in float64; images, results and feature maps.
Observer = Callable[[str, Tensor], object]
ReferenceStep = Callable[[Integers, Sequence[Integers], Tensor | None], Integers]
NativeStep = Callable[[Integers, Sequence[Any], Tensor | None], Map | Digits]  # Reads a Map, or Digits if it asked.
"""An operation made ready, called with the latents, the results that it reads, and its conditioning."""

Shift = Annotated[int, Field(ge=0, le=62)]
Limit = Annotated[int, Field(ge=0, lt=EXACT_FLOAT32)]
Small = Annotated[int, Field(ge=1, le=1 << 16)]


@dataclass(frozen=True)
class Value:
    """What is known of a result before anything is run.

    Attributes:
        channels: Its channels.
        height: Its rows.
        width: Its columns.
        bits: Its fractional bits.
        limit: The largest size of its integers.
        low: How far they go below zero.
        work: Multiplications and additions that it takes, for one image.
        scratch: The largest array that is filled on the way, in numbers, for one image.
        is_latent: Whether it is the latent itself, whose last bits count the most.
    """

    channels: int
    height: int
    width: int
    bits: int
    limit: int
    low: int
    work: int = 0
    scratch: int = 0
    is_latent: bool = False

    @property
    def n_positions(self) -> int:
        """Rows times columns."""
        return self.height * self.width

    @property
    def size(self) -> int:
        """Numbers in the result for one image."""
        return self.channels * self.n_positions


@dataclass(frozen=True)
class Place:
    """Where an operation stands in a program.

    Attributes:
        position: Its position.
        image_shape: Channels, height and width of the latents.
        sources: What is known of the results that it reads.
        is_last: Whether the operations after it only rearrange its result, which is then the network's.
        condition_limit: The largest size of its conditioning; 0 without any.
    """

    position: int
    image_shape: tuple[int, int, int]
    sources: tuple[Value, ...]
    is_last: bool = False
    condition_limit: int = 0

    @property
    def out_bits(self) -> int:
        """Fractional bits of a result whose operation may choose them."""
        return OUTPUT_BITS if self.is_last else FEATURE_BITS


@dataclass(frozen=True)
class Calibration:
    """What was measured of an operation in floating point.

    Attributes:
        weights: Its weights, by their own names.
        largest: The largest sizes of its result (``""``) and of what it observed, by their own names.
        squares: The mean squares of the results that it reads.
        n_limbs: Digits into which executors in float32 may split what it reads.
    """

    weights: Tensors
    largest: Mapping[str, float]
    squares: tuple[float, ...]
    n_limbs: int


class Operation(BaseModel, ABC):
    """An operation, its sources given by their positions in the program. Subclasses have a field ``type``.

    ``scale`` says what becomes of the result when its sources are multiplied by a power of two: a layer with weights
    makes up for it (``own``), the result has the same factor (``shared``), or its size matters (``fixed``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    scale: ClassVar[Literal["own", "shared", "fixed"]] = "fixed"
    only_arranges: ClassVar[bool] = False  # Whether the numbers of the result are those of its source.

    @classmethod
    def kind(cls) -> str:
        """Its name in programs."""
        return cls.model_fields["type"].default

    @property
    def sources(self) -> tuple[int, ...]:
        """Positions of the operations whose results it reads."""
        return ()

    @property
    def reads_size(self) -> bool:
        """Whether the size of what it reads matters, and not only its proportions."""
        return False

    def n_conditions(self, channels: int) -> int:
        """Returns how many numbers of conditioning it takes for a source of so many channels; 0 for none."""
        return 0

    def rescaled(self, weights: Tensors, own: float, source: float) -> Tensors:
        """Returns the float weights for a result times ``own`` where the source is ``source`` times what it was."""
        return weights

    def quantise(self, place: Place, seen: Calibration) -> "tuple[Operation, Tensors]":
        """Returns the operation with its numbers, and its integer tensors.

        Raises:
            NelboError: If there are none that are exact.
        """
        return self, {}

    @abstractmethod
    def bound(self, place: Place, weights: Tensors) -> Value:
        """Returns what is known of the result, after a proof that all of it is exact.

        Nothing is taken on trust: the integers may come from a forged file.

        Raises:
            NelboError: If a tensor is missing or does not fit, or a sum may leave its accumulator.
        """

    @abstractmethod
    def run_float(
        self, z: Tensor, sources: Sequence[Tensor], condition: Tensor | None, weights: Tensors, observe: Observer
    ) -> Tensor:
        """Returns the result in floating point; ``observe`` is shown what :meth:`quantise` must know the range of."""

    @abstractmethod
    def reference(
        self, place: Place, weights: Tensors, tables: Tensors, arithmetic: Literal["float64", "float32"]
    ) -> ReferenceStep:
        """Returns the operation in plain PyTorch: its specification.

        Raises:
            NelboError: If it cannot be exact in this arithmetic.
        """

    @abstractmethod
    def native(self, place: Place, weights: Tensors, tables: Tensors, digits: DigitFormat | None) -> NativeStep:
        """Returns the operation in compiled loops, its result in digits where the only one that reads it wants such.

        Raises:
            NelboError: If it has no loops for this.
        """

    def digits(self, place: Place, weights: Tensors) -> DigitFormat | None:
        """Returns the digits in which its loops read their source; None for plain feature maps."""
        return None


class Arrangement(Operation):
    """An operation that moves numbers and changes none, so that all arithmetics do the same."""

    scale: ClassVar[Literal["own", "shared", "fixed"]] = "shared"

    @abstractmethod
    def arranged(self, sources: Sequence[Tensor]) -> Tensor:
        """Returns the result, of images."""

    def run_float(
        self, z: Tensor, sources: Sequence[Tensor], condition: Tensor | None, weights: Tensors, observe: Observer
    ) -> Tensor:
        return self.arranged(sources)

    def reference(
        self, place: Place, weights: Tensors, tables: Tensors, arithmetic: Literal["float64", "float32"]
    ) -> ReferenceStep:
        return lambda z, sources, condition: self.arranged(sources)

    def native(self, place: Place, weights: Tensors, tables: Tensors, digits: DigitFormat | None) -> NativeStep:
        return lambda z, sources, condition: Map.of(self.arranged([source.images for source in sources]))


class Unary(Operation):
    """An operation that reads one result."""

    source: NonNegativeInt

    @property
    def sources(self) -> tuple[int, ...]:
        """The one source."""
        return (self.source,)


class Binary(Operation):
    """An operation that reads two results."""

    left: NonNegativeInt
    right: NonNegativeInt

    @property
    def sources(self) -> tuple[int, ...]:
        """Both sources."""
        return (self.left, self.right)


def limit_of(largest: float, bits: int) -> int:
    """Returns the limit of a feature map whose largest size was seen in calibration."""
    return math.ceil(STREAM_HEADROOM * largest * 2**bits) + 1


def checked_limit(limit: int, bits: int) -> int:
    """Returns the limit of a result.

    Raises:
        NelboError: If float32 does not hold the sum of two such numbers exactly.
    """
    if limit >= EXACT_FLOAT32 // 2:
        raise NelboError(f"its result may reach {limit >> bits}, too large for float32")
    return limit


def joined(values: Sequence[Value]) -> Value:
    """Returns what is known of results that meet: the first's sizes, the largest limits.

    Raises:
        NelboError: If they differ in height, width or fractional bits.
    """
    if len({(value.height, value.width, value.bits) for value in values}) != 1:
        sizes = " and ".join(f"{value.height} x {value.width} in units of 2^-{value.bits}" for value in values)
        raise NelboError(f"it joins results of {sizes}")
    limit, low = max(value.limit for value in values), max(value.low for value in values)
    return replace(values[0], limit=limit, low=low, work=0, scratch=0)
