r"""The schedules people use: rules that spread K stops over N levels without looking at the model.

Each returns nodes as the search does: 0 (the data), then K of the levels 1 to N, ending at N.

References:
    Denoising Diffusion Implicit Models (Song et al., 2021), appendix D.2: linear and quadratic. There and in code
    after it the quadratic one stops at 0.8 N; a bound needs it to reach the prior, so here it ends at N.
    https://arxiv.org/abs/2010.02502
    Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), section 3.2. https://arxiv.org/abs/2102.09672
"""

import math
from collections.abc import Callable, Sequence

from nelbo.errors import NelboError
from nelbo.time_schedule.error_table import ErrorTable


def even(table: ErrorTable, n_steps: int) -> list[int]:
    """Returns levels evenly spread in position: in the model's own time, for a discrete-time model."""
    return _nodes(table, _fractions(table, n_steps))


def quadratic(table: ErrorTable, n_steps: int) -> list[int]:
    """Returns levels whose positions grow as squares, dense at small noise."""
    return _nodes(table, [fraction**2 for fraction in _fractions(table, n_steps)])


def even_in_gamma(table: ErrorTable, n_steps: int) -> list[int]:
    """Returns the levels nearest to an even spread of gammas."""
    low, high = _ends(table)
    return _nearest(table, [low + (high - low) * fraction for fraction in _fractions(table, n_steps)])


def cosine(table: ErrorTable, n_steps: int) -> list[int]:
    """Returns the levels nearest to those of a cosine noise schedule with the same ends."""
    angles = [math.atan(math.exp(gamma / 2)) for gamma in _ends(table)]
    thetas = [angles[0] + (angles[1] - angles[0]) * fraction for fraction in _fractions(table, n_steps)]
    return _nearest(table, [2 * math.log(math.tan(theta)) for theta in thetas])


BASELINES: dict[str, Callable[[ErrorTable, int], list[int]]] = {
    "even": even,
    "quadratic": quadratic,
    "cosine": cosine,
    "even in gamma": even_in_gamma,
}


def _ends(table: ErrorTable) -> tuple[float, float]:
    """Returns the cleanest and the noisiest gamma of the whole chain."""
    first = table.subject.gamma_0 if table.subject.gamma_0 is not None else table.gammas[0].item()
    return first, table.gammas[-1].item()


def _fractions(table: ErrorTable, n_steps: int) -> list[float]:
    """Returns where in [0, 1] the K levels lie: the last at 1, the first at 0 where the model's chain ends there.

    A VDM's chain goes on to gamma_0, which is no level, so its K levels are the upper ends of K even steps.
    """
    if not 1 <= n_steps <= len(table.gammas):
        raise NelboError(f"a budget is a number of network calls from 1 to {len(table.gammas)}, got {n_steps}")
    if table.subject.gamma_0 is not None:
        return [(i + 1) / n_steps for i in range(n_steps)]
    return [1.0] if n_steps == 1 else [i / (n_steps - 1) for i in range(n_steps)]


def _nodes(table: ErrorTable, fractions: Sequence[float]) -> list[int]:
    """Returns 0 and a node for each fraction: of 1 to N where the first fraction is 0, else of 0 to N.

    Of a table of some of a model's timesteps, these are the nodes nearest to fractions of all timesteps.
    """
    n = len(table.gammas)
    if table.timesteps is not None:
        wanted = [round(fraction * int(table.timesteps[-1])) for fraction in fractions]
        return [0, *_distinct([int((table.timesteps - t).abs().argmin()) + 1 for t in wanted], n)]
    first = 1 if fractions[0] == 0 else 0
    return [0, *_distinct([round(first + fraction * (n - first)) for fraction in fractions], n)]


def _nearest(table: ErrorTable, gammas: Sequence[float]) -> list[int]:
    positions = [int((table.gammas - gamma).abs().argmin()) + 1 for gamma in gammas]
    return [0, *_distinct(positions, len(table.gammas))]


def _distinct(nodes: Sequence[int], n: int) -> list[int]:
    """Returns the nodes moved apart where they coincide: up first, then down from N."""
    moved: list[int] = []
    for node in nodes:
        moved.append(max(node, 1, moved[-1] + 1 if moved else 1))
    for i in range(len(moved) - 1, -1, -1):
        moved[i] = min(moved[i], n - (len(moved) - 1 - i))
    return moved
