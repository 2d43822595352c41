"""At which noise levels an error table measures a model: evenly in gamma, or at the timesteps where the cost is."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.data.images import Images
from nelbo.diffusion.importance import Profile
from nelbo.errors import NelboError
from nelbo.models.interface import DiffusionModel
from nelbo.runtime.device import Precision
from nelbo.runtime.processes import World
from nelbo.time_schedule.error_table import ErrorTable
from nelbo.time_schedule.pilot import pilot

N_CONTINUOUS, N_DISCRETE = 1000, 250  # Levels by default, where the model has as many.


def n_levels(model: DiffusionModel, n_gammas: int | None) -> int:
    """Returns how many levels a model's table has: of a discrete-time model no more than the model's own.

    Raises:
        NelboError: If there would be none, or of a discrete-time model not both ends of its chain.
    """
    n_own = None if model.gammas is None else len(model.gammas)
    default, least = (N_CONTINUOUS, 1) if n_own is None else (N_DISCRETE, min(2, n_own))
    wanted = default if n_gammas is None else n_gammas
    if wanted < least:
        raise NelboError(f"an error table of this model has at least {least} gammas, got {wanted}")
    return wanted if n_own is None else min(wanted, n_own)


def table_levels(
    model: DiffusionModel,
    data: Images,
    n: int,
    seed: int,
    batch_size: int,
    precision: Precision,
    world: World,
    like: ErrorTable | None = None,
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"] | None]:
    """Returns the levels of a table, and which of a discrete-time model's own they are; None for all of them.

    Args:
        model: The model, in its precision.
        data: Its images, a few of which a pilot pass goes over, where some of a model's levels are to be chosen.
        n: How many levels.
        seed: The randomness of the pilot pass.
        batch_size: Images a network call.
        precision: The network's arithmetic.
        world: The processes, which share the pilot pass.
        like: A table whose levels to take instead, if they are as many.
    """
    if model.gammas is None:
        return _even_gammas(model, n), None
    gammas = model.gammas.detach().cpu().double()
    if n == len(gammas):
        return gammas, None
    if like is not None and like.timesteps is not None and len(like.timesteps) == n:
        chosen = like.timesteps
    else:
        chosen = spread_by_cost(gammas, pilot(model, data, gammas, seed, batch_size, precision, world), n)
    return gammas[chosen], chosen


def _even_gammas(model: DiffusionModel, n: int) -> Float[Tensor, " n"]:
    """Returns n levels evenly spread above gamma_0, up to the noisiest."""
    gamma_0, gamma_1 = model.noise_schedule.gamma_0.item(), model.noise_schedule.gamma_1.item()
    return gamma_0 + (gamma_1 - gamma_0) * torch.arange(1, n + 1, dtype=torch.float64) / n


def spread_by_cost(gammas: Float[Tensor, " t"], profile: Profile, n: int) -> Int[Tensor, " n"]:
    """Returns n of a chain's levels, both ends among them: a third follows the cost, a third gamma, a third the index.

    The best stops of few steps lie where the cost is; those of many, and rules of thumb, lie everywhere.

    Example:
        >>> spread_by_cost(torch.linspace(-9.0, 9.0, 9), Profile(torch.zeros(1), torch.ones(1)), 3)
        tensor([0, 7, 8])
    """
    differences = gammas.diff(prepend=gammas[:1] - (gammas[1] - gammas[0]))
    costs = torch.expm1(differences) * profile.at(gammas)
    weights = costs / costs.sum() + differences / differences.sum() + 1 / len(gammas)
    certain = torch.zeros(len(gammas), dtype=torch.bool)
    certain[[0, -1]] = True
    while True:  # Levels that weigh more than their share are taken for certain, the rest shares what is left.
        shares = weights * (n - certain.sum()) / weights[~certain].sum()
        heavy = ~certain & (shares >= 1)
        if not bool(heavy.any()):
            break
        certain |= heavy
    ends = torch.where(certain, 1.0, shares).cumsum(0) + 1e-6
    return torch.cat([ends[:1] >= 1, ends.floor().diff() >= 1]).nonzero()[:, 0]
