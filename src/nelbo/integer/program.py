"""Frozen networks as programs: a list of operations, each reading the results of earlier ones.

The program is the whole description of a network: executors interpret it and never see the network's Python code, so
that a file of it keeps its meaning. Operations carry sizes and limits, the weights stand beside the program in a
table of tensors under ``<position>.<name>``. A program comes in two stages: as translated from a network, with float
weights and limits still zero, and quantised, with integers.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt
from torch import Tensor

Tensors = dict[str, Tensor]


class Operation(BaseModel):
    """An operation, its sources given by their positions in the program."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def sources(self) -> tuple[int, ...]:
        """Positions of the operations whose results it reads."""
        return ()


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


class Features(Operation):
    """The latent, the sines and the cosines of its Fourier features, in channels."""

    type: Literal["features"] = "features"
    exponents: tuple[Annotated[int, Field(ge=0, le=16)], ...]


class Unshuffle(Unary):
    """Space to depth: squares of ``factor`` x ``factor`` pixels become channels."""

    type: Literal["unshuffle"] = "unshuffle"
    factor: PositiveInt


class Shuffle(Unary):
    """Depth to space, the inverse of :class:`Unshuffle`."""

    type: Literal["shuffle"] = "shuffle"
    factor: PositiveInt


class Conv(Unary):
    r"""A convolution with square kernel; ``weight``, ``multiplier`` and ``offset`` stand beside it.

    .. math:: y = \mathrm{clamp}\bigl(\lfloor (m \sum w \hat x + b)\, 2^{-\mathrm{shift}} \rfloor,\ \pm\mathrm{limit}
              \bigr), \qquad \hat x = \lfloor x\, 2^{-\mathrm{in\_shift}} + \tfrac12 \rfloor
    """

    type: Literal["conv"] = "conv"
    stride: PositiveInt
    padding: NonNegativeInt
    in_shift: NonNegativeInt = 0
    in_limit: NonNegativeInt = 0
    shift: NonNegativeInt = 0
    limit: NonNegativeInt = 0


class Norm(Unary):
    """A group norm, modulated or fed by the conditioning, and SiLU after it if asked.

    ``condition`` says how the conditioning enters: not at all, as a shift before the norm (``before``), or as a scale
    and a shift after it (``modulate``). The result of the norm is clamped to [low, high].
    """

    type: Literal["norm"] = "norm"
    groups: PositiveInt
    eps: Annotated[float, Field(gt=0)]
    silu: bool
    condition: Literal["none", "before", "modulate"]
    shift: NonNegativeInt = 0
    low: int = 0
    high: NonNegativeInt = 0


class Attend(Unary):
    r"""Attention over all positions; the source's channels are queries, keys and values, each split into heads.

    .. math:: p \propto \exp_{\mathrm{table}}\bigl(\lfloor (\max - q \cdot k)\, m\, 2^{-\mathrm{shift}} \rfloor\bigr)
    """

    type: Literal["attend"] = "attend"
    heads: PositiveInt
    multiplier: NonNegativeInt = 0
    shift: NonNegativeInt = 0


class Add(Binary):
    """The sum of two results, clamped to its limit."""

    type: Literal["add"] = "add"
    limit: NonNegativeInt = 0


class Concat(Binary):
    """The channels of two results, one after the other."""

    type: Literal["concat"] = "concat"


AnyOperation = Annotated[
    Features | Unshuffle | Shuffle | Conv | Norm | Attend | Add | Concat, Field(discriminator="type")
]


class Embedding(BaseModel):
    """The embedding of gamma: ``embedding.rates``, ``embedding.dense0.*`` and ``embedding.dense1.*`` stand beside it.

    Attributes:
        low: The gamma that is mapped to time 0.
        high: The gamma that is mapped to time 1.
        shifts: The shifts of its two linear layers, which work like those of a convolution.
        limits: Their limits.
        condition_shifts: For each conditioned norm, by its position, the shift of the layer that projects the
            embedding, ``<position>.condition.*``.
        condition_limits: Their limits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    low: float
    high: float
    shifts: tuple[NonNegativeInt, NonNegativeInt] = (0, 0)
    limits: tuple[NonNegativeInt, NonNegativeInt] = (0, 0)
    condition_shifts: dict[NonNegativeInt, NonNegativeInt] = {}
    condition_limits: dict[NonNegativeInt, NonNegativeInt] = {}


class Program(BaseModel):
    """A network.

    Attributes:
        image_shape: Channels, height and width of the latents.
        operations: In order of execution; the last one's result is the network's.
        embedding: How gamma becomes the conditioning of the norms.
        adds_latent: Whether the latent is added to the result.
        prediction: What the result stands for, the noise or v.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    operations: tuple[AnyOperation, ...] = Field(min_length=1)
    embedding: Embedding
    adds_latent: bool
    prediction: Literal["eps", "v"]

    def last_uses(self) -> list[list[int]]:
        """Returns for each operation the positions of the results that nothing after it reads."""
        last = {source: position for position, op in enumerate(self.operations) for source in op.sources}
        return [
            [source for source, user in last.items() if user == position] for position in range(len(self.operations))
        ]

    def reader(self, position: int) -> int | None:
        """Returns the position of the only operation that reads a result, None if there are several or none."""
        readers = [other for other, op in enumerate(self.operations) if position in op.sources]
        return readers[0] if len(readers) == 1 else None

    def reads_silu(self, op: Conv) -> bool:
        """Returns whether what a convolution reads has been through SiLU, which goes hardly below zero."""
        source = self.operations[op.source]
        return isinstance(source, Norm) and source.silu
