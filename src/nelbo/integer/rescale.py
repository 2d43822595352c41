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

from torch import Tensor

from nelbo.integer.program import Add, Attend, Concat, Conv, Features, Norm, Program, Shuffle, Unshuffle


def rescaled(
    program: Program, tensors: Mapping[str, Tensor], largest: Mapping[str, float], size: float
) -> dict[str, Tensor]:
    """Returns the weights of a network that computes the same with smaller features.

    Args:
        program: The network.
        tensors: Its weights.
        largest: The largest size seen of the result of each convolution and sum, by its position.
        size: What these are made no larger than, where only norms look at them.
    """
    exponents, result = _exponents(program, largest, size), dict(tensors)
    for position, op in enumerate(program.operations):
        if isinstance(op, Conv):
            own = 2.0 ** -exponents[position]
            result[f"{position}.weight"] = tensors[f"{position}.weight"] * own * 2.0 ** exponents[op.source]
            if (bias := tensors.get(f"{position}.bias")) is not None:
                result[f"{position}.bias"] = bias * own
    return result


def _exponents(program: Program, largest: Mapping[str, float], size: float) -> list[int]:
    """Returns the exponent of each result's scale: one for all that is added or joined, zero where size matters."""
    groups = _groups(program)
    sizes = [largest.get(f"{position}", 0.0) for position in range(len(groups))]
    fixed = {groups[position] for position in _of_fixed_size(program)}
    most = {group: max(each for each, own in zip(sizes, groups, strict=True) if own == group) for group in groups}
    return [
        0 if group in fixed or most[group] <= size else math.ceil(math.log2(most[group] / size)) for group in groups
    ]


def _groups(program: Program) -> list[int]:
    """Returns for each result the first of those that have its scale."""
    groups = list(range(len(program.operations)))
    for position, op in enumerate(program.operations):
        if isinstance(op, Add | Concat | Shuffle | Unshuffle):
            joined = {groups[position], *(groups[source] for source in op.sources)}
            groups = [min(joined) if group in joined else group for group in groups]
    return groups


def _of_fixed_size(program: Program) -> list[int]:
    """Returns the results whose size matters: the network's own, inputs, norms, and what attention or a shift meets."""
    positions = [len(program.operations) - 1]
    for position, op in enumerate(program.operations):
        if isinstance(op, Features | Norm | Attend):
            positions.append(position)
        if isinstance(op, Attend) or (isinstance(op, Norm) and op.condition == "before"):
            positions += op.sources
    return positions
