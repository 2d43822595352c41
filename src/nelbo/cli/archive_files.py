"""What the verbs around archives share: streams, the frozen model, progress in images a second."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

from nelbo.errors import NelboError

if TYPE_CHECKING:
    from tqdm import tqdm

    from nelbo.integer.frozen_model import FrozenModel


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
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with new_file(path) as temporary, temporary.open("wb") as stream:
        yield stream


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
    from nelbo.integer.frozen_files import FROZEN, frozen_of
    from nelbo.integer.frozen_model import FrozenModel
    from nelbo.interop.any_model import load
    from nelbo.runtime.bundled import bundled_models

    if model is None:
        return None
    folder = bundled_models().get(model, Path(model))
    if folder.is_file() or (folder / FROZEN).is_file():
        return FrozenModel.load(folder if folder.is_file() else folder / FROZEN)
    return frozen_of(load(model))


@contextmanager
def meter(quiet: bool, total: int | None = None) -> Iterator["tqdm"]:
    """Yields a progress bar in images, with images a second, on standard error; none where it fails at once."""
    from tqdm import tqdm

    with tqdm(total=total, unit="image", disable=True if quiet else None, smoothing=0, delay=0.1) as bar:
        yield bar
