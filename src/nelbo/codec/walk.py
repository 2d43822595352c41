"""Which files a command takes: those it names and those in the folders it names, but not through links."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from nelbo.container.entries import FileKind
from nelbo.data.image_formats import HEAD_BYTES, format_of, is_picture_name
from nelbo.errors import NelboError


@dataclass(frozen=True)
class Selection:
    """What to archive, and how.

    Attributes:
        takes_all: Whether files that are no pictures, hidden ones, links and empty folders are stored as well.
        is_bare: Whether lossless images are kept as their pixels alone.
        is_timed: Whether times of modification are kept.
        is_strict: Whether the first file that cannot be kept ends it all.
        exclude: Patterns of paths that are left out, as the shell has them; one without / is of names in any folder.
    """

    takes_all: bool = False
    is_bare: bool = False
    is_timed: bool = True
    is_strict: bool = False
    exclude: Sequence[str] = ()

    def excludes(self, name: str) -> bool:
        """Returns whether a path within the archive is left out."""
        return any(matches(name, pattern) for pattern in self.exclude)


NOT_FILES = "pipes, sockets and devices"  # What no option stores.


@dataclass
class Kept:
    """What is noted while files are looked through.

    Attributes:
        files: Files that may be removed once they are archived.
        problems: Files that cannot be kept, each with the reason.
        left_out: How many files of which kind were left out.
    """

    files: dict[Path, tuple[int, int, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add_problem(self, problem: str, selection: Selection) -> None:
        """Notes a file that cannot be kept.

        Raises:
            NelboError: If that is to end it all.
        """
        if selection.is_strict:
            raise NelboError(problem)
        self.problems.append(problem)


@dataclass(frozen=True)
class Found:
    """A file, a link or an empty folder.

    Attributes:
        path: Where it is.
        name: Its name in the archive.
        kind: What it is.
        is_picture: Whether it should be an image.
        n_bytes: Its length.
        stamp: What tells whether it has changed.
        time: When it was last modified.
        is_removable: Whether ``--rm`` may remove it: not what a link led to.
        data: Its bytes, if it is on no disk.
    """

    path: Path
    name: str
    kind: FileKind
    is_picture: bool
    n_bytes: int
    stamp: tuple[int, int, int]
    time: int | None
    is_removable: bool
    data: bytes | None = None

    @classmethod
    def of_bytes(cls, name: str, data: bytes) -> "Found":
        """Returns an image that is on no disk."""
        return cls(Path(name), name, FileKind.FILE, True, len(data), (0, 0, 0), None, False, data)

    def read(self, offset: int = 0, n_bytes: int = -1) -> bytes:
        """Returns the file's bytes, or some of them.

        Raises:
            NelboError: If it is no longer what it was.
        """
        if self.data is not None:
            return self.data[offset:] if n_bytes < 0 else self.data[offset : offset + n_bytes]
        with self.path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if (status.st_ino, status.st_size, status.st_mtime_ns) != self.stamp:
                raise NelboError(f"{self.path} has changed while it was read: compress it again")
            stream.seek(offset)
            return stream.read(n_bytes)

    def target(self) -> bytes:
        """Returns where a link leads to; nothing for a folder."""
        return os.fsencode(os.readlink(self.path)) if self.kind is FileKind.LINK else b""


def found_in(path: Path, selection: Selection, kept: Kept) -> Iterator[Found]:
    """Yields what is taken of a file or a folder that was named, in the order of the names."""
    is_removable = not path.is_symlink()
    if not path.is_dir():
        yield _found(path, path.name, FileKind.FILE, is_picture_file(path), is_removable)
        return
    base = path.resolve().name
    for inner in _inside(path, selection, kept):
        relative = inner.relative_to(path).as_posix()
        name = f"{base}/{relative}" if base else relative
        if selection.excludes(name) or selection.excludes(relative):
            continue
        kind = _kind_of(inner)
        if kind is None:
            kept.left_out[NOT_FILES] += 1
            continue
        is_picture = kind is FileKind.FILE and is_picture_name(name)
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(relative).parts)
        if not selection.takes_all and (hidden or not is_picture):
            kept.left_out[_described(inner, kind, hidden)] += 1
            continue
        yield _found(inner, name, kind, is_picture, is_removable and kind is FileKind.FILE)


def is_picture_file(path: Path) -> bool:
    """Returns whether a file should be an image, by its name or by its first bytes."""
    try:
        with path.open("rb") as stream:
            return is_picture_name(path.name) or format_of(stream.read(HEAD_BYTES)) is not None
    except OSError:
        return is_picture_name(path.name)


def matches(name: str, pattern: str) -> bool:
    """Returns whether a path is of a pattern: itself, or a folder above it."""
    parts = PurePosixPath(name).parts
    if "/" not in pattern.rstrip("/"):
        return any(fnmatchcase(part, pattern.rstrip("/")) for part in parts)
    above = ("/".join(parts[:n]) for n in range(1, len(parts) + 1))
    return any(fnmatchcase(each, pattern.strip("/")) for each in above)


def _found(path: Path, name: str, kind: FileKind, is_picture: bool, is_removable: bool) -> Found:
    status = path.lstat() if kind is not FileKind.FILE else path.stat()
    stamp = status.st_ino, status.st_size, status.st_mtime_ns
    n_bytes = status.st_size if kind is FileKind.FILE else 0
    return Found(path, name, kind, is_picture, n_bytes, stamp, status.st_mtime_ns, is_removable)


def _inside(folder: Path, selection: Selection, kept: Kept) -> Iterator[Path]:
    """Yields the files, links and empty folders at any depth below a folder, sorted; notes those it may not list."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_dir():
            yield path
            continue
        try:
            inner = list(_inside(path, selection, kept))
        except OSError as error:
            kept.add_problem(f"{path} cannot be listed ({error.strerror}): change its permissions", selection)
            continue
        yield from inner or [path]


def _kind_of(path: Path) -> FileKind | None:
    if path.is_symlink():
        return FileKind.LINK
    if path.is_dir():
        return FileKind.FOLDER
    return FileKind.FILE if path.is_file() else None


def _described(path: Path, kind: FileKind, hidden: bool) -> str:
    """Returns what a summary counts a file as that was left out."""
    if kind is not FileKind.FILE:
        return {FileKind.LINK: "links", FileKind.FOLDER: "empty folders"}[kind]
    if hidden:
        return "hidden files"
    return f"{path.suffix.lower()} files" if path.suffix else "files without extension"
