"""What the verbs around archives share: streams, the frozen model, progress, and what they say."""

import errno
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo.integer.frozen_model import FrozenModel
    from nelbo.runtime.meter import Meter


def check_free(path: Path, force: bool) -> None:
    """Raises NelboError if a file is there that may not be overwritten."""
    from nelbo.runtime.atomic import check_writable

    if str(path) == "-":
        return
    if path.exists() and not force:
        raise NelboError(f"{path} exists: choose another name, or overwrite it with -f")
    check_writable(path)


@contextmanager
def output_stream(path: Path) -> Iterator[IO[bytes]]:
    """Yields where an archive is written: a file that appears when it is whole, or standard output."""
    from nelbo.runtime.atomic import new_file

    if str(path) == "-":
        refuse_terminal()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with new_file(path) as temporary, temporary.open("wb") as stream:
        yield stream


def refuse_terminal() -> None:
    """Raises NelboError if standard output is a terminal, on which bytes do harm."""
    if sys.stdout.isatty():
        raise NelboError("standard output is a terminal, and this is no text: name a file with -o, or redirect it")


@contextmanager
def input_stream(path: Path, seekable: bool = False) -> Iterator[IO[bytes]]:
    """Yields an archive's bytes: a file's, or standard input's, kept in memory where they must be read at any place.

    Raises:
        NelboError: If there is no such file.
    """
    if str(path) == "-":
        yield BytesIO(sys.stdin.buffer.read()) if seekable else sys.stdin.buffer
        return
    if not path.is_file():
        raise NelboError(f"there is no archive {path}")
    with path.open("rb") as stream:
        yield stream


def named_model(model: str | None) -> "FrozenModel | None":
    """Returns the frozen model that ``--model`` names: a frozen model's file, a bundled model or a model folder."""
    from nelbo.cli.archive_models import frozen_model

    return None if model is None else frozen_model(model)


def default_archive(paths: Sequence[str]) -> Path:
    """Returns the archive's name where none is given: ``photos.nelbo`` beside ``photos/``, ``-`` for ``-``.

    Raises:
        NelboError: If there are several paths.
    """
    if len(paths) != 1:
        raise NelboError(f"{len(paths)} paths have no common name: name the archive with -o")
    if paths[0] == "-":
        return Path("-")
    path = Path(paths[0])
    name = path.name if path.name not in ("", "..") else path.resolve().name
    return path.parent / f"{name or 'archive'}.nelbo"


def n_workers(asked: int) -> int:
    """Returns how many processes or threads work: as many as are asked for, one a core for 0.

    Raises:
        NelboError: If the number is negative.
    """
    from nelbo.codec.workers import n_cores

    if asked < 0:
        raise NelboError(f"-T is a number of workers, 0 for one a core, got {asked}")
    return asked or n_cores()


def for_each(archives: Sequence[Path], action: Callable[[Path], object]) -> None:
    """Does something with each of several archives; where one fails, says so and goes on with the next.

    Raises:
        NelboError: If one fails: for the last that does.
    """
    if not archives:
        raise NelboError("no archive is named: name one, or - for standard input")
    errors: list[NelboError] = []
    for archive in archives:
        try:
            action(archive)
        except BrokenPipeError:  # The reader of our output has left: that is no archive's fault.
            raise
        except (NelboError, OSError) as error:
            if errors:
                say(str(errors[-1]))
            text = explained(error)
            known = text if str(archive) in text or len(archives) == 1 else f"{archive}: {text}"
            errors.append(NelboError(known))
    if errors:
        raise errors[-1]


def explained(error: NelboError | OSError) -> str:
    """Returns what an error says; the system names no place where standard output or a temporary file is full."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        return "there is no space left for standard output or for temporary files (TMPDIR): choose another place"
    return str(error)


def say(text: str) -> None:
    """Says a line on standard error."""
    print(f"nelbo: {printable(text)}", file=sys.stderr)


def printable(text: str) -> str:
    """Returns text without what a terminal would act on: control characters, and those that turn the direction."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


@contextmanager
def meter(quiet: bool, total: int = 0) -> Iterator["Meter"]:
    """Yields what counts tiles, and shows on standard error how far they are and what time is left."""
    from nelbo.runtime.meter import Meter

    with Meter(total, "tile", quiet=quiet) as bar:
        yield bar
