"""Frozen networks as programs: a list of operations, each reading the results of earlier ones.

The program is the whole description of a network: executors interpret it and never see the network's Python code, so
that a file of it keeps its meaning. Operations carry sizes and limits; tensors stand beside the program in a table,
under ``<position>.<name>``. A program comes in two stages: as translated from a network, with float weights and limits
still zero, and quantised, with integers.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError
from torch import Tensor

from nelbo.errors import NelboError
from nelbo.integer.embedding import Conditions, Embedding
from nelbo.integer.operations.add import Add
from nelbo.integer.operations.attention import Attend
from nelbo.integer.operations.concat import Concat
from nelbo.integer.operations.convolution import Conv
from nelbo.integer.operations.features import Features
from nelbo.integer.operations.norm import Norm
from nelbo.integer.operations.operation import Operation, Place, Small, Value
from nelbo.integer.operations.shuffle import Shuffle, Unshuffle
from nelbo.integer.tables import check_tables
from nelbo.integer.tensors import Tensors, by_owner

MAX_OPERATIONS = 1 << 12
MAX_WORK = 1 << 36  # Multiplications and additions for one image: a minute where nothing is compiled.
MAX_NUMBERS = 1 << 26  # In the results that are alive at once, and in what an operation fills on the way.

OPERATIONS: dict[str, type[Operation]] = {
    operation.kind(): operation for operation in (Features, Unshuffle, Shuffle, Conv, Norm, Attend, Add, Concat)
}
"""All operations, by their names in programs. A new one is one more entry."""


def _parsed(value: Any) -> Any:  # noqa: ANN401 (a file may hold anything)
    """Returns the operation of a record in a file; what is one already stays."""
    if isinstance(value, Operation):
        return value
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in OPERATIONS:
        raise ValueError(f"there is no operation {kind!r:.40}; there are {', '.join(OPERATIONS)}")
    try:
        return OPERATIONS[kind].model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise ValueError(f"{kind}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None


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
    image_shape: tuple[Small, Small, Small]
    operations: Annotated[
        tuple[Annotated[SerializeAsAny[Operation], BeforeValidator(_parsed)], ...],
        Field(min_length=1, max_length=MAX_OPERATIONS),
    ]
    embedding: Embedding
    adds_latent: bool
    prediction: Literal["eps", "v"]

    def last_uses(self) -> list[list[int]]:
        """Returns for each operation the positions of the results that nothing after it reads."""
        last = {source: position for position, op in enumerate(self.operations) for source in op.sources}
        users: list[list[int]] = [[] for _ in self.operations]
        for source, user in last.items():
            users[user].append(source)
        return users

    def readers(self) -> list[list[int]]:
        """Returns for each operation the positions of those that read its result."""
        readers: list[list[int]] = [[] for _ in self.operations]
        for position, op in enumerate(self.operations):
            for source in dict.fromkeys(op.sources):
                readers[source].append(position)
        return readers

    def place(self, position: int, values: list[Value]) -> Place:
        """Returns where an operation stands, from what is known of the results before it."""
        op, rest = self.operations[position], self.operations[position + 1 :]
        return Place(
            position,
            self.image_shape,
            tuple(values[source] for source in op.sources),
            is_last=all(other.only_arranges for other in rest),
            condition_limit=self.embedding.condition_limits.get(position, 0),
        )


class IntegerNetwork:
    """A quantised program with its integers, every tensor checked and every sum proved exact before anything is run.

    Args:
        program: Quantised.
        tensors: Its integers and tables; others are left alone.

    Attributes:
        places: Where each operation stands.
        weights: The integers of each operation, by their own names.
        sources: The positions that each operation reads.
        last_uses: For each operation the positions of the results that nothing after it reads.

    Raises:
        NelboError: If a tensor is missing or does not fit, a source is no earlier operation, a sum may leave its
            accumulator, or the network takes more work or memory than the limits.
    """

    def __init__(self, program: Program, tensors: Mapping[str, Tensor]) -> None:
        self.program = program
        owned = by_owner(tensors)
        self.tables, self._embedding = owned.get("table", {}), owned.get("embedding", {})
        self.weights: list[Tensors] = [owned.get(str(i), {}) for i in range(len(program.operations))]
        self._owned = {str(i): own for i, own in enumerate(self.weights)}
        self.sources, self.last_uses = [op.sources for op in program.operations], program.last_uses()
        self.places: list[Place] = []
        check_tables(self.tables)
        values = self._proved()
        result = values[-1]
        if (result.channels, result.height, result.width) != tuple(program.image_shape):
            raise NelboError(f"its result is {result.channels} x {result.height} x {result.width}, not as the latents")
        self._check_conditions()
        self._check_size(values)

    def conditions(self, x: float) -> Conditions:
        """Returns the conditioning for one number.

        Raises:
            NelboError: If it is far outside the embedding's range.
        """
        return self.program.embedding.run(self._embedding, self._owned, self.tables, x)

    def _proved(self) -> list[Value]:
        """Returns what is known of all results."""
        values: list[Value] = []
        for position, op in enumerate(self.program.operations):
            if any(source >= position for source in op.sources):
                raise NelboError(f"operation {position} ({op.kind()}) reads no earlier operation: {op.sources}")
            self.places.append(self.program.place(position, values))
            try:
                value = op.bound(self.places[-1], self.weights[position])
            except NelboError as error:
                raise NelboError(f"operation {position} ({op.kind()}): {error}") from None
            if max(value.size, value.scratch) > MAX_NUMBERS:
                raise NelboError(f"operation {position} ({op.kind()}) fills more than {MAX_NUMBERS} numbers an image")
            values.append(value)
        return values

    def _check_conditions(self) -> None:
        places = zip(self.program.operations, self.places, strict=True)
        rows = [op.n_conditions(place.sources[0].channels) if place.sources else 0 for op, place in places]
        try:
            self.program.embedding.check(self._embedding, self._owned, {i: n for i, n in enumerate(rows) if n})
        except NelboError as error:
            raise NelboError(f"the embedding: {error}") from None

    def _check_size(self, values: list[Value]) -> None:
        unread = [i for i, readers in enumerate(self.program.readers()[:-1]) if not readers]
        if unread:
            raise NelboError(f"operation {unread[0]} ({self.program.operations[unread[0]].kind()}) is read by nothing")
        if sum(value.work + value.size for value in values) > MAX_WORK:
            raise NelboError(f"it takes more than {MAX_WORK} multiplications for one image")
        alive = 0
        for value, forgotten in zip(values, self.last_uses, strict=True):
            alive += value.size
            if alive > MAX_NUMBERS:
                raise NelboError(f"its results fill more than {MAX_NUMBERS} numbers an image")
            alive -= sum(values[i].size for i in forgotten)
