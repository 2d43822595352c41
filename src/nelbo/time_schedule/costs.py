r"""What every step would cost: from the N entries of an error table to the costs of all its N^2 pairs of levels.

Nodes are 0, the data, and 1 to N, the table's levels. An edge :math:`s < t` costs what the reverse kernel's step
costs on average over images. The edge to the data costs what the best of the allowed exits does: the model's own
decoder (of a VDM: a step down to :math:`z_0` and its decoder; of a DDPM: its network's last step), or one of
:mod:`nelbo.diffusion.residual_decoder`. Entering at t costs the prior's divergence there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from nelbo.diffusion.error_statistics import ErrorStatistics
from nelbo.diffusion.gaussian_entry import GaussianEntry
from nelbo.diffusion.reverse import KERNELS
from nelbo.errors import NelboError
from nelbo.time_schedule.error_table import ErrorTable

OWN = "decoder"


@dataclass(frozen=True, eq=False)
class Costs:
    r"""The graph on whose paths the schedules are.

    Attributes:
        edges: Nats of each edge, shape (N + 1, N + 1), infinite where there is none.
        exits: The kind of exit behind each edge to the data, by level.
        entry: Nats of starting at each node.
        reverse: The reverse kernel.
        steps: The costs of its steps alone, see :func:`step_costs`; other freedom needs no others.
        gaussian: The Gaussian that the chain enters with; None is :math:`\mathcal N(0, I)`.
    """

    edges: Float[np.ndarray, "n n"]
    exits: list[str]
    entry: Float[np.ndarray, " n"]
    reverse: str
    steps: Float[np.ndarray, "n m"]
    gaussian: GaussianEntry | None = None


def costs(
    table: ErrorTable,
    reverse: str,
    exits: Sequence[str] | None = None,
    free_entry: bool = True,
    free_exit: bool = True,
    steps: Float[np.ndarray, "m n"] | None = None,
    gaussian: GaussianEntry | None = None,
) -> Costs:
    r"""Returns the costs of all edges under a reverse kernel.

    Args:
        table: The model's error table.
        reverse: A kernel of :data:`nelbo.diffusion.reverse.KERNELS`.
        exits: Which exits may be taken, of ``decoder`` (the model's own), ``channels`` and ``causal``; by default all.
        free_entry: Whether the chain may start below the noisiest level.
        free_exit: Whether the data may be reached from any level; else by the model's own decoder alone, as it was
            trained: of a VDM from z_0, of a DDPM from its cleanest level.
        steps: :func:`step_costs` of this table and kernel, where they are known already.
        gaussian: The Gaussian that the chain may enter with in place of :math:`\mathcal N(0, I)`.

    Raises:
        NelboError: If the kernel or an exit is unknown, the table does not support it, or it is unfinished.
    """
    _check(table, reverse, exits)
    n = len(table.gammas)
    edges = np.full((n + 1, n + 1), np.inf)
    down = step_costs(table, reverse) if steps is None else steps
    edges[1:, 1:] = np.where(np.tri(n, dtype=bool), np.inf, down[1:])
    edges[0, 1:], kinds = _exit_costs(table, down[0], exits if free_exit else [OWN], free_exit)
    entry = np.full(n + 1, np.inf)
    prior = table.prior() if gaussian is None else gaussian.expected_kl(table.gammas, table.n_dims)
    prior = prior.numpy()
    entry[1:] = prior if free_entry else np.where(np.arange(n) == n - 1, prior, np.inf)
    return Costs(edges, kinds, entry, reverse, down, gaussian)


def step_costs(table: ErrorTable, reverse: str) -> Float[np.ndarray, "m n"]:
    """Returns the mean cost in nats of the step from each level (column) to each lower one (row).

    Row 0 is gamma_0, the latent that is decoded without the network, infinite where there is none; entries of no step
    are meaningless.
    """
    gammas = table.gammas
    lower = torch.cat(
        [gammas.new_tensor([table.subject.gamma_0 if table.subject.gamma_0 is not None else -1e3]), gammas]
    )
    result = np.full((len(lower), len(gammas)), np.inf)
    first = 0 if table.subject.gamma_0 is not None else 1
    for level, errors in enumerate(table.statistics(range(len(gammas)))):
        cost = step_cost(errors, reverse, gammas[level], lower[first : level + 1])
        result[first : level + 1, level] = cost.numpy()
    return result


def step_cost(
    errors: ErrorStatistics, reverse: str, gamma: Float[torch.Tensor, ""], lower: Float[torch.Tensor, " s"]
) -> Float[torch.Tensor, " s"]:
    """Returns the mean cost in nats of the steps from one level, whose errors are given, down to some others."""
    return KERNELS[reverse].of_errors(errors).expected_kl(errors, lower, gamma.expand(len(lower)))


def _exit_costs(
    table: ErrorTable, down: Float[np.ndarray, " n"], exits: Sequence[str] | None, free: bool
) -> tuple[Float[np.ndarray, " n"], list[str]]:
    """Returns the cheapest way from each level to the data, and its kind."""
    options = {}
    for kind in exits if exits is not None else [OWN, *table.exits]:
        options[kind] = _own_exit(table, down, free) if kind == OWN else _fitted_exit(table, kind)
    stacked = np.stack(list(options.values()))
    return stacked.min(0), [list(options)[k] for k in stacked.argmin(0)]


def _own_exit(table: ErrorTable, down: Float[np.ndarray, " n"], free: bool) -> Float[np.ndarray, " n"]:
    if table.subject.gamma_0 is not None:
        return down + (table.decoder[0, 0] / table.n_decoded).item()
    losses = (table.decoder[:, 0] / table.n_images).numpy()
    return losses if free else np.where(np.arange(len(losses)) == 0, losses, np.inf)


def _fitted_exit(table: ErrorTable, kind: str) -> Float[np.ndarray, " n"]:
    result = np.full(len(table.gammas), np.inf)
    levels = table.exit_levels
    result[levels.numpy()] = (table.exit_losses[kind][:, 0] / table.n_images[levels]).numpy()
    return result


def _check(table: ErrorTable, reverse: str, exits: Sequence[str] | None) -> None:
    if reverse not in KERNELS:
        raise NelboError(f"no reverse kernel {reverse!r}; there are {', '.join(KERNELS)}")
    if KERNELS[reverse].needs_range and table.ranges is None:
        raise NelboError(f"the model has no learned variances, which the reverse kernel {reverse!r} needs")
    if not bool((table.n_images > 0).all()):
        raise NelboError("the error table is unfinished: not every level has seen an image; run its command again")
    for kind in exits or []:
        if kind != OWN and kind not in table.exits:
            raise NelboError(f"no exit {kind!r} in the error table; it has {', '.join([OWN, *table.exits])}")
    if exits is not None and not exits:
        raise NelboError("a chain needs a way to the data: allow at least one exit")
