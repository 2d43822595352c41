r"""Makes the features of a network smaller where only norms look at them, which changes nothing.

Training does not mind how large features are that a group norm divides by their deviation, but sums of their squares
must fit into an accumulator. Results that are added have one scale, a power of two, and what reads or makes them makes
up for it in its weights:

.. math:: \mathrm{norm}(2^{-e} x) = \mathrm{norm}(x), \qquad
          2^{-e} (W x + b) = (2^{-e + e'} W)\, (2^{-e'} x) + 2^{-e} b

but for the norm's epsilon, which counts for :math:`4^e` times as much.
"""

import math
from collections.abc import Mapping

from nelbo.integer.program import Program
from nelbo.integer.tensors import Tensors, by_owner


def rescaled(program: Program, tensors: Tensors, largest: Mapping[str, float], size: float) -> Tensors:
    """Returns the weights of a network that computes the same with smaller features.

    Args:
        program: The network.
        tensors: Its weights.
        largest: The largest size seen of each result, ``<position>.``.
        size: What results are made no larger than, where only norms look at them.
    """
    exponents, owned, result = _exponents(program, largest, size), by_owner(tensors), dict(tensors)
    for position, op in enumerate(program.operations):
        if op.scale == "own":
            own, source = 2.0 ** -exponents[position], 2.0 ** -exponents[op.sources[0]]
            made = op.rescaled(owned[f"{position}"], own, source)
            result |= {f"{position}.{name}": tensor for name, tensor in made.items()}
    return result


def _exponents(program: Program, largest: Mapping[str, float], size: float) -> list[int]:
    """Returns the exponent of each result's scale: one for all that is added or joined, zero where size matters."""
    groups = _groups(program)
    fixed = {groups[position] for position in _of_fixed_size(program)}
    most: dict[int, float] = {}
    for position, group in enumerate(groups):
        most[group] = max(most.get(group, 0.0), largest[f"{position}."])
    return [
        0 if group in fixed or most[group] <= size else math.ceil(math.log2(most[group] / size)) for group in groups
    ]


def _groups(program: Program) -> list[int]:
    """Returns for each result the first of those that have its scale."""
    groups = list(range(len(program.operations)))
    for position, op in enumerate(program.operations):
        if op.scale == "shared":
            joined = {groups[position], *(groups[source] for source in op.sources)}
            groups = [min(joined) if group in joined else group for group in groups]
    return groups


def _of_fixed_size(program: Program) -> list[int]:
    """Returns the results whose size matters: the network's own, inputs, norms, and what attention or a shift meets."""
    positions = [len(program.operations) - 1]
    for position, op in enumerate(program.operations):
        if op.scale == "fixed":
            positions.append(position)
        if op.reads_size:
            positions += op.sources
    return positions
