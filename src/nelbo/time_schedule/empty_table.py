"""An error table before its first image: its levels, its subject, and where exits are measured."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nelbo.diffusion.residual_decoder import NEIGHBOURS
from nelbo.diffusion.spectral_basis import plain_basis
from nelbo.diffusion.variance_histogram import N_BINS
from nelbo.errors import NelboError
from nelbo.models.fingerprint import fingerprint
from nelbo.models.interface import DiffusionModel
from nelbo.time_schedule.error_table import ErrorTable, Subject, pairs

MAX_EXIT_LEVELS = 128


def subject(model: DiffusionModel, seed: int, precision: str) -> Subject:
    """Returns what a table of a model is about."""
    gamma_0 = model.noise_schedule.gamma_0.item() if model.exit_std is None else None
    return Subject(fingerprint(model), model.image_shape, gamma_0, model.gammas is not None, seed, precision)


def empty_table(
    model: DiffusionModel,
    gammas: Float[Tensor, " n"],
    timesteps: Int64[Tensor, " n"] | None,
    seed: int,
    precision: str,
    exit_kinds: Sequence[str] | None = None,
    exits_of: ErrorTable | None = None,
) -> ErrorTable:
    """Returns the table of no images."""
    exit_kinds = tuple(NEIGHBOURS) if exit_kinds is None else exit_kinds
    if unknown := set(exit_kinds) - set(NEIGHBOURS):
        raise NelboError(f"no exit {sorted(unknown)[0]!r}; there are {', '.join(NEIGHBOURS)}")
    about = subject(model, seed, precision)
    n, (channels, *_), block = len(gammas), about.image_shape, plain_basis(about.image_shape).block
    spacing = -(-n // MAX_EXIT_LEVELS)
    exit_levels = torch.arange(0, n, spacing) if exit_kinds else torch.zeros(0, dtype=torch.int64)
    empty = ErrorTable(
        subject=about,
        gammas=gammas,
        n_images=torch.zeros(n, dtype=torch.int64),
        n_decoded=0,
        square=torch.zeros(2, dtype=torch.float64),
        decoder=torch.zeros(1 if about.gamma_0 is not None else n, 2, dtype=torch.float64),
        error=torch.zeros(n, 2, dtype=torch.float64),
        covariance=torch.zeros(n, len(pairs(channels)), *block, dtype=torch.float64),
        exits={kind: [] for kind in exit_kinds},
        exit_losses={kind: torch.zeros(len(exit_levels), 2, dtype=torch.float64) for kind in exit_kinds},
        exit_levels=exit_levels,
        timesteps=timesteps,
        ranges=torch.zeros(n, N_BINS, 4, dtype=torch.float64) if model.reverse.needs_range else None,
    )
    if exits_of is None:
        return empty
    if exits_of.subject != about or not torch.equal(exits_of.gammas, gammas):
        raise NelboError("exits_of is the error table of another model, seed, precision or grid of gammas")
    losses = {kind: torch.zeros(len(exits_of.exit_levels), 2, dtype=torch.float64) for kind in exits_of.exits}
    return replace(empty, exits=exits_of.exits, exit_losses=losses, exit_levels=exits_of.exit_levels)
