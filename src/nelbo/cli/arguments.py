"""What several verbs share: reading option values, and the progress bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nelbo.errors import NelboError


def parse_steps(steps: str) -> int | None:
    """Returns the number of steps that ``--steps`` names, None for ``inf``.

    Raises:
        NelboError: If it is neither a positive integer nor ``inf``.
    """
    if steps == "inf":
        return None
    if not steps.isdecimal() or int(steps) < 1:
        raise NelboError(f"--steps is a number of steps from 1 on, or inf for continuous time, got {steps!r}")
    return int(steps)


def parse_seeds(seeds: str) -> list[int]:
    """Returns the seeds that ``--seeds`` names: numbers and ranges such as ``3`` or ``0-63`` or ``0-3,8``.

    Raises:
        NelboError: If it is written otherwise, or a range runs backwards.
    """
    parsed: list[int] = []
    for part in seeds.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise NelboError(f"--seeds takes numbers and increasing ranges such as 0-63 or 1,5,7-9, got {seeds!r}")
        parsed += range(int(first), int(last or first) + 1)
    return parsed


def check_batch_size(batch_size: int) -> None:
    """Raises NelboError unless a batch holds an image."""
    if batch_size < 1:
        raise NelboError(f"--batch-size is a number from 1 on, got {batch_size}")


@contextmanager
def progress_bar(total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """Yields the function that advances a progress bar on standard error, silent when that is no terminal."""
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, disable=None) as bar:
        yield bar.update
