"""An error table cut into runs of neighbouring levels, which processes fill side by side, and put together again."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from nelbo.time_schedule.error_table import ErrorTable


def cut(table: ErrorTable, rows: range) -> ErrorTable:
    """Returns the part of a table at some neighbouring levels, with sums of its own."""
    part, inside = slice(rows.start, rows.stop), (table.exit_levels >= rows.start) & (table.exit_levels < rows.stop)
    places = inside.nonzero()[:, 0].tolist()
    first, last = (places[0], places[-1] + 1) if places else (0, 0)
    return replace(
        table,
        gammas=table.gammas[part].clone(),
        timesteps=None if table.timesteps is None else table.timesteps[part].clone(),
        n_images=table.n_images[part].clone(),
        decoder=table.decoder.clone() if table.subject.gamma_0 is not None else table.decoder[part].clone(),
        error=table.error[part].clone(),
        covariance=table.covariance[part].clone(),
        exits={kind: exits[first:last] for kind, exits in table.exits.items()},
        exit_losses={kind: losses[first:last].clone() for kind, losses in table.exit_losses.items()},
        exit_levels=table.exit_levels[first:last] - rows.start,
        ranges=None if table.ranges is None else table.ranges[part].clone(),
    )


def join(parts: Sequence[ErrorTable]) -> ErrorTable:
    """Returns the table of all parts' levels, the inverse of :func:`cut`; the parts have seen the same images."""
    starts = torch.tensor([0, *(len(part.gammas) for part in parts)]).cumsum(0).tolist()
    whole = max(parts, key=lambda part: part.n_decoded)  # A part of no levels has read no images.
    has_own_decoder = whole.subject.gamma_0 is not None
    return replace(
        whole,
        gammas=torch.cat([part.gammas for part in parts]),
        timesteps=None if whole.timesteps is None else torch.cat([_timesteps(part) for part in parts]),
        n_images=torch.cat([part.n_images for part in parts]),
        decoder=whole.decoder if has_own_decoder else torch.cat([part.decoder for part in parts]),
        error=torch.cat([part.error for part in parts]),
        covariance=torch.cat([part.covariance for part in parts]),
        exits={kind: [exit for part in parts for exit in part.exits[kind]] for kind in whole.exits},
        exit_losses={kind: torch.cat([part.exit_losses[kind] for part in parts]) for kind in whole.exit_losses},
        exit_levels=torch.cat([part.exit_levels + start for part, start in zip(parts, starts[:-1], strict=True)]),
        ranges=None if whole.ranges is None else torch.cat([_ranges(part) for part in parts]),
    )


def _timesteps(part: ErrorTable) -> torch.Tensor:
    assert part.timesteps is not None, "of the same model as the others"
    return part.timesteps


def _ranges(part: ErrorTable) -> torch.Tensor:
    assert part.ranges is not None, "of the same model as the others"
    return part.ranges
