"""From an error table to schedules: the cheapest one of each budget, or the one that stops at given levels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from nelbo.diffusion.bound import to_bpd
from nelbo.diffusion.gaussian import alpha
from nelbo.diffusion.gaussian_entry import ImageMoments
from nelbo.diffusion.reverse import KERNELS
from nelbo.errors import NelboError
from nelbo.time_schedule.costs import OWN, Costs, costs
from nelbo.time_schedule.error_table import ErrorTable, standard_errors
from nelbo.time_schedule.schedule import PredictedBound, TimeSchedule
from nelbo.time_schedule.search import ShortestPaths, shortest_paths


@dataclass(frozen=True, eq=False)
class Schedules:
    """All optimal schedules of one error table under one kernel.

    Attributes:
        table: The error table.
        graph: The costs.
        paths: The cheapest paths; ``paths.method`` says which search found them.
        freedom: The exits, free_entry and free_exit that they were found under.
    """

    table: ErrorTable
    graph: Costs
    paths: ShortestPaths
    freedom: tuple[Sequence[str] | None, bool, bool]

    def bpd(self, n_steps: int) -> float:
        """Returns the predicted bound of the best schedule of K steps, infinite where there is none."""
        return _bpd(self.table, self.paths.totals[n_steps - 1])

    def __getitem__(self, n_steps: int) -> TimeSchedule:
        """Returns the best schedule of exactly K steps.

        Raises:
            NelboError: If K is out of range or cannot be met.
        """
        return schedule_of(self.table, self.graph, self.paths.path(n_steps))


def optimal_schedules(
    table: ErrorTable,
    budgets: Iterable[int] | None = None,
    reverse: str = "spectral",
    exits: Sequence[str] | None = None,
    free_entry: bool = True,
    free_exit: bool = True,
    moments: ImageMoments | None = None,
) -> Schedules:
    r"""Returns the best schedules of exactly K network calls, for every K at once.

    Args:
        table: The model's error table.
        budgets: The Ks that will be asked for: no larger one will be found. By default, all up to the number of levels.
        reverse: A kernel of :data:`nelbo.diffusion.reverse.KERNELS`.
        exits: Which exits may be taken, see :func:`nelbo.time_schedule.costs.costs`.
        free_entry: Whether the chain may start below the noisiest level.
        free_exit: Whether it may leave for the data from any level.
        moments: The mean and the spectrum of training images, with which the chain then enters (see
            :mod:`nelbo.diffusion.gaussian_entry`); None enters with :math:`\mathcal N(0, I)`.

    Raises:
        NelboError: If a budget is out of range, or the kernel or an exit is none of the table's.

    References:
        Learning to Efficiently Sample from Diffusion Probabilistic Models (Watson et al., 2021), section 3.
        https://arxiv.org/abs/2106.03802
    """
    wanted, n = sorted(budgets or []), len(table.gammas)
    for budget in wanted[:1] + wanted[-1:]:
        if not 1 <= budget <= n:
            raise NelboError(
                f"a budget is a number of network calls from 1 to {n}, the levels of the error table, got {budget}"
            )
    gaussian = None if moments is None else moments.entry(table.basis().colours)
    if gaussian is not None:
        gaussian.check_shape(table.subject.image_shape)
    graph = costs(table, reverse, exits, free_entry, free_exit, gaussian=gaussian)
    paths = shortest_paths(graph.edges, wanted[-1] if wanted else n, graph.entry)
    return Schedules(table, graph, paths, (exits, free_entry, free_exit))


def path_bpd(table: ErrorTable, graph: Costs, nodes: Sequence[int]) -> float:
    """Returns the predicted bound of the schedule that stops at given nodes, node 0 (the data) first."""
    steps = sum(graph.edges[s, t] for s, t in pairwise(nodes))
    return _bpd(table, steps + graph.entry[nodes[-1]])


def schedule_of(table: ErrorTable, graph: Costs, nodes: Sequence[int]) -> TimeSchedule:
    """Returns the schedule that stops at given nodes, node 0 (the data) first."""
    levels = [node - 1 for node in nodes[1:]]
    kind = graph.exits[levels[0]]
    through_z_0 = kind == OWN and table.subject.gamma_0 is not None
    uppers = levels if through_z_0 else levels[1:]  # The upper ends of its steps.
    gammas = table.gammas[levels]
    if through_z_0:
        gammas = torch.cat([gammas.new_tensor([table.subject.gamma_0]), gammas])
    kernels = [KERNELS[graph.reverse].of_errors(errors) for errors in table.statistics(uppers or levels[:1])]
    names = kernels[0].tensors()  # A chain of no steps keeps tensors of no rows.
    return TimeSchedule(
        gammas=gammas,
        reverse=graph.reverse,
        exit=None if kind == OWN else table.exits[kind][int(torch.searchsorted(table.exit_levels, levels[0]))],
        fingerprint=table.subject.fingerprint,
        image_shape=table.subject.image_shape,
        n_steps=len(levels),
        timesteps=tuple(table.timestep(level) for level in levels) if table.subject.discrete else None,
        prediction=_prediction(table, graph, nodes, kind),
        tensors={name: torch.stack([kernel.tensors()[name] for kernel in kernels])[: len(uppers)] for name in names},
        basis=kernels[0].basis,
        entry=graph.gaussian,
    )


def _prediction(table: ErrorTable, graph: Costs, nodes: Sequence[int], kind: str) -> PredictedBound:
    prior, leave = graph.entry[nodes[-1]], graph.edges[0, nodes[1]]
    reconstruction = leave
    if kind == OWN and table.subject.gamma_0 is not None:
        reconstruction = (table.decoder[0, 0] / table.n_decoded).item()
    total = path_bpd(table, graph, nodes)
    bits = [_bpd(table, nats) for nats in (prior, reconstruction)]
    return PredictedBound(total, _standard_error(table, graph, nodes, kind), bits[0], total - sum(bits), bits[1])


def _standard_error(table: ErrorTable, graph: Costs, nodes: Sequence[int], kind: str) -> float:
    """Returns the standard error over images of the predicted bound, as if all its terms moved together."""
    first, last = nodes[1] - 1, nodes[-1] - 1
    relative = standard_errors(table.error, table.n_images) / (table.error[:, 0] / table.n_images)
    steps = [(graph.edges[s, t], t - 1) for s, t in pairwise(nodes[1:])]
    if kind == OWN and table.subject.gamma_0 is not None:
        steps.append((graph.steps[0, first], first))
    of_prior = 0.5 * alpha(table.gammas[last]).square() * standard_errors(table.square[None], table.n_decoded)
    nats = sum(step * relative[level].item() for step, level in steps)
    return _bpd(table, nats + _exit_error(table, kind, first) + of_prior.item())


def _exit_error(table: ErrorTable, kind: str, level: int) -> float:
    """Returns the standard error in nats of what leaving for the data from a level costs."""
    sums, n = table.decoder[-1 if len(table.decoder) == 1 else level], int(table.n_images[level])
    if kind != OWN:
        sums = table.exit_losses[kind][int(torch.searchsorted(table.exit_levels, level))]
    elif table.subject.gamma_0 is not None:
        n = table.n_decoded
    return standard_errors(sums[None], n).item()


def _bpd(table: ErrorTable, nats: float) -> float:
    return to_bpd(torch.tensor(float(nats), dtype=torch.float64), table.n_dims).item()
