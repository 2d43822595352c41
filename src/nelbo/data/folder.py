"""A folder of image files."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from nelbo.data.encoded import EncodedFiles
from nelbo.data.header import is_image_file


@dataclass(frozen=True)
class FolderSource(EncodedFiles):
    """The image files of a folder: only their relative paths are held."""

    root: Path
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def item_name(self, index: int) -> str:
        """Returns the file's path within the folder."""
        return self.names[index]

    def open(self, index: int) -> BufferedReader:
        """Opens a file."""
        return (self.root / self.names[index]).open("rb")


def image_files(folder: Path) -> list[str]:
    """Returns the paths of a folder's image files, at any depth and through links, relative to it, sorted.

    Raises:
        OSError: Some folder in it cannot be listed.
    """
    return sorted(filter(is_image_file, (path.relative_to(folder).as_posix() for path in _files(folder))))


def _files(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yields the files of a folder and of those in it, also through links, but not of a folder within itself."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path, above | {real})
        elif path.is_file() or not path.exists():  # A link to nothing is an error later; a pipe would wait for ever.
            yield path
