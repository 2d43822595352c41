"""From float programs to integer ones: weights rounded, limits chosen, every accumulator proved exact.

The proof is by norms: a sum of products is at most the L1 norm of a row of weights times the limit of what it
multiplies. All that a program can be fed stays below 2^53 in float64 and, digit by digit, below 2^24 in float32 and
below 2^31 in integers.
"""

from collections.abc import Mapping

from nelbo.errors import NelboError
from nelbo.integer.operations.operation import Calibration, Operation, Value
from nelbo.integer.program import Program
from nelbo.integer.tables import make_tables
from nelbo.integer.tensors import Tensors, by_owner


def quantised(
    program: Program,
    tensors: Tensors,
    largest: Mapping[str, float],
    squares: Mapping[str, float],
    n_limbs: int,
) -> tuple[Program, Tensors]:
    """Returns an integer program and its tensors.

    Args:
        program: As translated.
        tensors: Its float weights.
        largest: The largest sizes seen in calibration, by the names of :func:`nelbo.integer.executors.run_float`.
        squares: The mean squares seen in calibration.
        n_limbs: Digits into which the float32 executor may split what a convolution reads: with fewer it is faster and
            weights coarser.

    Raises:
        NelboError: If a bound cannot be proved; the message names the operation.
    """
    floats, sizes = by_owner(tensors), by_owner(largest)
    try:
        program, embedding, owned = _with_embedding(program, floats, sizes)
    except NelboError as error:
        raise NelboError(f"freeze: the embedding: {error}") from None
    values: list[Value] = []
    operations: list[Operation] = []
    for position, op in enumerate(program.operations):
        place, own = program.place(position, values), str(position)
        seen = Calibration(floats.get(own, {}), sizes[own], tuple(squares[f"{i}."] for i in op.sources), n_limbs)
        try:
            made, weights = op.quantise(place, seen)
            values.append(made.bound(place, weights))
        except NelboError as error:
            raise NelboError(f"freeze: operation {position} ({op.kind()}): {error}") from None
        operations.append(made)
        owned.setdefault(own, {}).update(weights)
    owned |= {"embedding": embedding, "table": make_tables()}
    named = ((f"{owner}.{name}", tensor) for owner, own in owned.items() for name, tensor in own.items())
    return program.model_copy(update={"operations": tuple(operations)}), dict(named)


def _with_embedding(
    program: Program, floats: Mapping[str, Tensors], sizes: Mapping[str, Mapping[str, float]]
) -> tuple[Program, Tensors, dict[str, Tensors]]:
    """Returns a program with an embedding in integers, its tensors, and those of the operations it conditions."""
    conditioned = {
        i: (floats[str(i)]["condition.weight"], sizes[str(i)]["condition"])
        for i in range(len(program.operations))
        if "condition.weight" in floats.get(str(i), {})
    }
    made, tensors, own = program.embedding.quantise(floats["embedding"], sizes["embedding"], conditioned)
    return program.model_copy(update={"embedding": made}), tensors, {str(i): each for i, each in own.items()}
