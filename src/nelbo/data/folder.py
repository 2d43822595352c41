"""A folder of image files."""

import os
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from nelbo.data.encoded import EncodedImages, Source, open_encoded
from nelbo.data.header import is_image_file


@dataclass(frozen=True)
class FolderSource(Source):
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
    """Returns the paths of a folder's image files, at any depth, relative to it and sorted.

    Raises:
        OSError: Some folder in it cannot be listed.
    """
    names = [
        (Path(parent) / file).relative_to(folder).as_posix()
        for parent, _, files in os.walk(folder, onerror=_reraise)
        for file in files
    ]
    return sorted(filter(is_image_file, names))


def open_folder(folder: Path, names: list[str]) -> EncodedImages:
    """Opens image files of a folder, given by their paths within it.

    Raises:
        NelboError: Some cannot be used; the message names them.
    """
    return open_encoded(str(folder), FolderSource(folder, names))


def _reraise(error: OSError) -> None:
    # Without this, os.walk passes over what it cannot list, and images go missing in silence.
    raise error
