"""Members of archives on their way out: files below one folder, and nothing written through links."""

import os
import shutil
import unicodedata
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from PIL import Image

from nelbo.codec.assembly import Picture, Restored
from nelbo.codec.stored_files import joined_file
from nelbo.container.entries import Entry, FileEntry, FileKind, Member
from nelbo.container.names import name_bytes
from nelbo.data.image_formats import modes_written
from nelbo.errors import NelboError
from nelbo.runtime.atomic import new_file

_LONGEST_PART = 255  # Bytes of a name in a folder, on nearly every file system.
_WINDOWS_CHARACTERS = '<>:"|?*\\'


class Unpacked:
    """The folder that an archive's members are written to.

    Args:
        folder: The folder.
        force: Whether files that are there are overwritten. Those that were written here never are.
        is_timed: Whether files get the times of modification that the archive has.

    Attributes:
        notes: What people should know: names that were changed, files whose bytes are others than they were.
    """

    def __init__(self, folder: Path, force: bool = False, is_timed: bool = True) -> None:
        self._folder, self._force, self._is_timed = folder, force, is_timed
        self._written: dict[str, Path] = {}
        self._links: list[tuple[Path, bytes]] = []
        self.notes: list[str] = []

    def check(self, entry: Member) -> None:
        """Checks that a member may be written.

        Raises:
            NelboError: As :func:`member_path`, or if a file or a link is there.
        """
        path = member_path(entry, self._folder)
        if not (isinstance(entry, FileEntry) and entry.kind is FileKind.FOLDER and path.is_dir()):
            self._check_free(path)

    def write(self, restored: Restored, entry: Member, time: int | None = None) -> None:
        """Writes a member.

        Args:
            restored: What the archive holds of it.
            entry: What the archive says of it.
            time: When it was last modified, in nanoseconds since 1970.

        Raises:
            NelboError: As :meth:`check`, or if it cannot be written.
        """
        path = self._free_path(entry)
        try:
            if isinstance(entry, Entry):
                self._write_image(restored, entry, path)
            elif entry.kind is FileKind.FOLDER:
                path.mkdir(parents=True, exist_ok=True)
            elif entry.kind is FileKind.LINK:
                self._links.append((path, _stream(restored).read(1 << 16)))
                return
            else:
                with new_file(path) as temporary, temporary.open("wb") as stream:
                    shutil.copyfileobj(_stream(restored), stream)
            if time is not None and self._is_timed:
                os.utime(path, ns=(time, time))
        except (OSError, OverflowError) as error:
            raise NelboError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None

    def finish(self) -> None:
        """Makes the links of the archive, at last, so that nothing was written through them.

        Raises:
            NelboError: If one cannot be made.
        """
        for path, target in self._links:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if os.path.lexists(path):
                    path.unlink()
                os.symlink(os.fsdecode(target), path)
            except OSError as error:
                raise NelboError(f"cannot make the link {path}: {error.strerror or error}") from None

    def _write_image(self, restored: Restored, entry: Entry, path: Path) -> None:
        if isinstance(restored, Picture):
            if restored.rest is not None:
                data, is_same = joined_file(entry, restored.pixels, restored.rest)
                if not is_same:
                    self.notes.append(f"{path} has the pixels and the metadata that it had, deflated anew")
                with new_file(path) as temporary:
                    temporary.write_bytes(data)
                return
            self.notes.append(f"{path} lost what it held beside its pixels")
            restored = restored.pixels
        if not isinstance(restored, np.ndarray):
            raise NelboError(f"{entry.name!a} has no pixels: the archive is damaged")
        form = "PNG" if entry.mode not in modes_written(path.suffix) else None
        with new_file(path) as temporary:
            try:
                Image.fromarray(np.ascontiguousarray(restored)).save(temporary, form)
            except (OSError, ValueError, TypeError) as error:
                raise NelboError(f"cannot write {path} with mode {entry.mode}: {error}") from None

    def _free_path(self, entry: Member) -> Path:
        """Returns where a member is written: under another name where its own is another member's here.

        Names that differ in case or in Unicode's form alone are one file on some systems.
        """
        path = member_path(entry, self._folder)
        same = unicodedata.normalize("NFKC", str(path.parent.resolve() / path.name)).casefold()
        other = self._written.setdefault(same, path)
        if other is not path and path.exists() and path.samefile(other):
            path = _renamed(path, entry.name)
        self._check_free(path)
        if path.name != PurePosixPath(entry.name).name or str(path) != str(self._folder / entry.name):
            self.notes.append(f"{entry.name} is written as {path}, for this system does not take its name")
        return path

    def _check_free(self, path: Path) -> None:
        if os.path.lexists(path) and not self._force:
            raise NelboError(f"{path} exists: choose another folder, or overwrite it with -f")


def member_path(entry: Member, folder: Path) -> Path:
    """Returns where a member of an archive is written.

    Raises:
        NelboError: If its name would lead out of the folder, by a link in it, or it is of a format of which no file
            is written anew.
    """
    name = "/".join(_fitting(part) for part in entry.name.split("/"))
    path = folder / PurePosixPath(name)
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise NelboError(f"{entry.name!a} would be written outside of {folder}, through a link in it: remove the link")
    if isinstance(entry, Entry) and not entry.format and entry.mode not in modes_written(path.suffix):
        raise NelboError(
            f"{entry.name!a} has mode {entry.mode}, which no {path.suffix[1:].upper() or 'such'} file holds: "
            "read it with nelbo.Codec"
        )
    return path


def _fitting(part: str) -> str:
    """Returns a part of a name as this system takes it: shortened if it is too long, and without what is forbidden."""
    taken = part
    if os.name == "nt":
        taken = "".join("_" if c in _WINDOWS_CHARACTERS or c < " " else c for c in taken).rstrip(". ") or "_"
        device = taken.split(".")[0].rstrip().casefold()
        is_device = device in ("con", "prn", "aux", "nul") or (device[:3] in ("com", "lpt") and device[3:].isdigit())
        taken = f"_{taken}" if is_device else taken
    if len(name_bytes(taken)) > _LONGEST_PART:
        return _renamed(Path(taken), part).name
    return taken


def _renamed(path: Path, name: str) -> Path:
    """Returns a path with a mark of its own before the extension, in a length that file systems take."""
    mark = "~" + blake2b(name_bytes(name), digest_size=4).hexdigest()
    suffix = path.suffix if len(name_bytes(path.suffix)) <= 16 else ""
    stem = path.name.removesuffix(suffix)
    while len(name_bytes(stem + mark + suffix)) > _LONGEST_PART:
        stem = stem[:-1]
    return path.with_name(stem + mark + suffix)


def _stream(restored: Restored) -> IO[bytes]:
    if isinstance(restored, np.ndarray | Picture):
        raise NelboError("a file of the archive has pixels: the archive is damaged")
    return restored
