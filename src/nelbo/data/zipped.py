"""A .zip archive of image files, read in place."""

import os
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from nelbo.data.encoded import EncodedFiles, EncodedImages, open_encoded
from nelbo.data.header import is_image_file
from nelbo.errors import NelboError, one_line


@dataclass(frozen=True)
class ZipSource(EncodedFiles):
    """The image files of an archive.

    Processes forked from one another share the position in an open file, so each opens the archive anew.
    """

    path: Path
    names: list[str]
    opened: dict[int, ZipFile] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def __reduce__(self) -> tuple[type["ZipSource"], tuple[Path, list[str]]]:
        return (ZipSource, (self.path, self.names))

    def item_name(self, index: int) -> str:
        """Returns the file's path within the archive."""
        return self.names[index]

    def open(self, index: int) -> BufferedReader:
        """Opens a file of the archive."""
        archive = self.opened.get(os.getpid())
        if archive is None:
            archive = self.opened[os.getpid()] = ZipFile(self.path)
        member = archive.open(self.names[index])
        return BufferedReader(member)  # pyright: ignore[reportArgumentType]  # Has readinto, which IO lacks.


def open_zip(path: Path) -> EncodedImages:
    """Opens an archive of image files.

    Raises:
        NelboError: It is damaged, holds no image files, or some that cannot be used.
    """
    return open_encoded(str(path), zip_source(path))


def zip_source(path: Path) -> ZipSource:
    """Returns the image files of an archive.

    Raises:
        NelboError: It is damaged or holds no image files.
    """
    try:
        with ZipFile(path) as archive:
            names = sorted({name for name in archive.namelist() if is_image_file(name)})
    except (BadZipFile, NotImplementedError, ValueError) as error:
        raise NelboError(f"{path} is damaged or no .zip archive ({one_line(error)}): fetch or make it again") from error
    if not names:
        raise NelboError(f"{path} holds no image files: pass an archive of PNG, JPEG or similar files")
    return ZipSource(path, names)
