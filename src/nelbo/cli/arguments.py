"""What several verbs share: reading option values, and the progress bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo.data.images import Images
    from nelbo.time_schedule.schedule import TimeSchedule


def parse_steps(steps: str) -> int | Path | Literal["all"] | None:
    """Returns the number of steps that ``--steps`` names, ``all``, None for ``inf``, or the file of a time schedule.

    Raises:
        NelboError: If it is neither a positive integer nor ``inf`` nor ``all`` nor a file.
    """
    if steps == "inf":
        return None
    if steps == "all":
        return "all"
    if steps.isdecimal() and int(steps) >= 1:
        return int(steps)
    if Path(steps).is_file():
        return Path(steps)
    raise NelboError(
        "--steps is a number of steps from 1 on, all for every level of a discrete-time model, inf for continuous "
        f"time, or a time schedule's file, got {steps!r}"
    )


def open_steps(steps: int | Path | Literal["all"] | None) -> "int | TimeSchedule | Literal['all'] | None":
    """Returns what was parsed, with a file read as the time schedule it holds."""
    from nelbo.time_schedule.schedule import TimeSchedule

    return TimeSchedule.load(steps) if isinstance(steps, Path) else steps


def parse_numbers(text: str, option: str) -> list[int]:
    """Returns the positive numbers of a list such as ``8,16,32``, sorted and without repetitions.

    Raises:
        NelboError: If it is written otherwise.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise NelboError(f"{option} is a list of numbers from 1 on such as 8,16,32, got {text!r}")
    return sorted({int(part) for part in parts})


def parse_seeds(seeds: str, option: str = "--seeds") -> list[int]:
    """Returns the numbers that an option such as ``--seeds`` names, with ranges: ``3`` or ``0-63`` or ``0-3,8``.

    Raises:
        NelboError: If it is written otherwise, or a range runs backwards.
    """
    parsed: list[int] = []
    for part in seeds.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise NelboError(f"{option} takes numbers and increasing ranges such as 0-63 or 1,5,7-9, got {seeds!r}")
        parsed += range(int(first), int(last or first) + 1)
    return parsed


def check_batch_size(batch_size: int) -> None:
    """Raises NelboError unless a batch holds an image."""
    if batch_size < 1:
        raise NelboError(f"--batch-size is a number from 1 on, got {batch_size}")


def open_pictures(data: Path, resize: int | None, crop: int | None) -> "Images":
    """Returns the images of ``--data``, of pictures of any size where ``--resize`` or ``--crop`` says how."""
    from nelbo.data.fitting import Fit
    from nelbo.data.open import open_images

    return open_images(data, None if resize is None and crop is None else Fit(resize, crop))


@contextmanager
def progress_bar(total: int, unit: str, quiet: bool = False) -> Iterator[Callable[[int], object]]:
    """Yields the function that counts what is done, and shows it on standard error as :class:`Meter` does."""
    from nelbo.runtime.meter import Meter

    with Meter(total, unit, quiet=quiet) as meter:
        yield meter.advance
