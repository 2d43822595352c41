"""Where a model's cost lies, as an error table says: the profile by which single steps of its bound are drawn."""

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.diffusion.importance import Profile
from nelbo.errors import NelboError
from nelbo.models.fingerprint import fingerprint
from nelbo.models.interface import DiffusionModel
from nelbo.runtime.bundled import bundled_tables
from nelbo.time_schedule.costs import step_cost
from nelbo.time_schedule.error_table import ErrorTable, load_table


def profile_of(table: ErrorTable, reverse: str, levels: Float[Tensor, " n"] | None = None) -> Profile:
    """Returns the profile of a chain, or of continuous time.

    Args:
        table: The error table; its levels need not be the chain's.
        reverse: The chain's reverse kernel.
        levels: The chain's levels, increasing; None for continuous time.

    Raises:
        NelboError: If no level of the table has seen an image.
    """
    seen = table.n_images > 0
    if levels is not None:
        seen &= table.gammas > levels[0]
    if not bool(seen.any()):
        raise NelboError("the error table has seen no image at any level of the chain: run its command again")
    costs = torch.stack([_unit_cost(table, reverse, int(level), levels) for level in seen.nonzero()[:, 0]])
    return Profile(table.gammas[seen], costs.clamp(min=1e-12 * costs.max().clamp(min=1e-30).item()))


def bundled_table(model: DiffusionModel) -> ErrorTable | None:
    """Returns the error table that comes with a bundled model, None of any other model."""
    for path in bundled_tables().values():
        table = load_table(path)
        if table.subject.image_shape == tuple(model.image_shape) and table.subject.fingerprint == fingerprint(model):
            return table
    return None


def check_table_model(table: ErrorTable, model: DiffusionModel) -> None:
    """Raises NelboError if an error table is another model's."""
    if table.subject.fingerprint != fingerprint(model):
        raise NelboError("the error table is another model's: make one of this model with `nelbo schedule`")


def _unit_cost(table: ErrorTable, reverse: str, level: int, levels: Float[Tensor, " n"] | None) -> Float[Tensor, ""]:
    """Returns the cost of the chain's step down from a level, over expm1 of the gammas' difference."""
    if levels is None:
        return table.error[level, 0] / table.n_images[level]
    gamma, errors = table.gammas[level], next(table.statistics([level]))
    lower = levels[levels < gamma][-1:]
    return step_cost(errors, reverse, gamma, lower)[0] / torch.expm1(gamma - lower[0])
