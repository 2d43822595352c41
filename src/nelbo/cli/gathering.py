"""The error table behind ``nelbo schedule``: gathered with progress, saved on the way, taken up again."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from nelbo.cli.arguments import progress_bar
from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo.models.interface import DiffusionModel
    from nelbo.runtime.processes import World
    from nelbo.time_schedule.error_table import ErrorTable
    from nelbo.time_schedule.gather import Progress

SECONDS_BETWEEN_SAVES = 60


def gather(
    model: "DiffusionModel",
    data: Path,
    path: Path,
    n_gammas: int | None,
    n_images: int,
    seed: int,
    batch_size: int,
    precision: str,
    world: "World",
) -> "ErrorTable":
    """Returns the error table of a model on randomly chosen images, kept at ``path`` while it grows."""
    from nelbo.cli.cost import say_cost
    from nelbo.data.open import open_images
    from nelbo.runtime.agreement import agree, collect
    from nelbo.time_schedule.error_table import load_table
    from nelbo.time_schedule.gather import chosen_images, error_table
    from nelbo.time_schedule.table_levels import n_levels

    chosen = agree(world, lambda: chosen_images(open_images(data), n_images, seed))
    start = collect(world, agree(world, lambda: load_table(path) if world.is_first and path.exists() else None))[0]
    n = agree(world, lambda: n_levels(model, len(start.gammas) if n_gammas is None and start else n_gammas))
    mine = world.share(n)
    done = 0 if start is None else int(start.n_images[mine.start : mine.stop].sum())
    total, quiet = len(mine) * len(chosen), not world.is_first
    agree(world, lambda: say_cost(model, total - done, batch_size, precision, quiet))
    with progress_bar(total, "call", quiet) as advance, _Keeper(path, world, advance, done) as keeper:
        table = error_table(
            model, chosen, n_gammas, seed, batch_size, precision, start=start, progress=keeper, world=world
        )
    agree(world, lambda: keeper.save(table))
    return load_table(path) if world.is_first else table  # As a later search finds it: covariances are in float32.


class _Keeper:
    """Shows how far a table is, and saves it every minute and when it is interrupted.

    A part of several processes' table is not saved: an interrupted run goes on from the last whole one.
    """

    def __init__(self, path: Path, world: "World", advance: Callable[[int], object], done: int) -> None:
        self._path, self._world, self._advance, self._done = path, world, advance, 0
        self._latest: ErrorTable | None = None
        self._saved = time.monotonic()
        self._count(done)

    def __call__(self, table: "ErrorTable", progress: "Progress") -> None:
        """Takes note of the table so far."""
        self._count(progress.done)
        if progress.is_whole:
            self._latest = table
            if time.monotonic() - self._saved > SECONDS_BETWEEN_SAVES:
                self.save(table)

    def save(self, table: "ErrorTable") -> None:
        """Saves a table, if this is the first process."""
        from nelbo.time_schedule.error_table import save_table

        if self._world.is_first:
            save_table(table, self._path)
        self._saved = time.monotonic()

    def __enter__(self) -> "_Keeper":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keeps what there is when the run is interrupted."""
        if kind is KeyboardInterrupt and self._latest is not None:
            self.save(self._latest)

    def _count(self, done: int) -> None:
        self._advance(done - self._done)
        self._done = done


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
        raise NelboError(
            f"{path} is the error table of another model than {name!r}: make its own with `nelbo schedule`"
        )
    return table
