"""The error table behind ``nelbo schedule``: gathered with progress, saved on the way, taken up again."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from nelbo.cli.arguments import progress_bar
from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo.models.interface import DiffusionModel
    from nelbo.time_schedule.error_table import ErrorTable
    from nelbo.time_schedule.gather import Progress

SECONDS_BETWEEN_SAVES = 60


def gather(
    model: "DiffusionModel",
    data: Path,
    path: Path,
    n_gammas: int,
    n_images: int,
    seed: int,
    batch_size: int,
    precision: str,
) -> "ErrorTable":
    """Returns the error table of a model on randomly chosen images, kept at ``path`` while it grows."""
    from nelbo.data.open import open_images
    from nelbo.time_schedule.error_table import load_table, save_table
    from nelbo.time_schedule.gather import chosen_images, error_table

    chosen = chosen_images(open_images(data), n_images, seed)
    start = load_table(path) if path.exists() else None
    done, saved = 0 if start is None else int(start.n_images.sum()), time.monotonic()
    n_levels = n_gammas if model.gammas is None else len(model.gammas)
    with progress_bar(n_levels * len(chosen), "call") as advance:
        advance(done)

        latest: list[ErrorTable] = []

        def keep(table: "ErrorTable", progress: "Progress") -> None:
            nonlocal done, saved
            advance(progress.done - done)
            done, latest[:] = progress.done, [table]
            if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                save_table(table, path)
                saved = time.monotonic()

        try:
            table = error_table(model, chosen, n_gammas, seed, batch_size, precision, start=start, progress=keep)
        except KeyboardInterrupt:
            if latest:
                save_table(latest[0], path)
            raise
    save_table(table, path)
    return load_table(path)  # As a later search will find it: covariances are stored in float32.


def loaded_table(model: "DiffusionModel", path: Path | None, name: str) -> "ErrorTable":
    """Returns a table from a file, if it is one of this model.

    Raises:
        NelboError: If there is none, or it is another model's.
    """
    from nelbo.models.fingerprint import fingerprint
    from nelbo.time_schedule.error_table import load_table

    if path is None:
        raise NelboError(f"no error table comes with {name!r}: give images to measure it on with --data")
    table = load_table(path)
    if table.subject.fingerprint != fingerprint(model):
        raise NelboError(f"{path} is the error table of another model than {name!r}: give images with --data instead")
    return table
