"""Files and folders on their way into an archive: which are taken, how they are named, which are removed."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nelbo.codec.layout import Pixels, Source
from nelbo.codec.spool import Spool
from nelbo.codec.taken import Refusal, Taken, attempt, of_bytes
from nelbo.codec.tiles import MODES_OF_MODELS
from nelbo.codec.walk import NOT_FILES, Found, Kept, Selection, found_in, is_picture_file
from nelbo.container.entries import Entry, FileEntry, check_entries, needs_version_2
from nelbo.data.images import Images
from nelbo.data.open import open_images
from nelbo.errors import NelboError

DATA_SETS = (".npz", ".npy", ".parquet", ".zip", ".gz")

_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class FileSource(Source):
    """Members that were found at some paths.

    Attributes:
        taken: What was found of each.
        files: The files that may be removed once they are archived, each with what tells whether it has changed.
        data_sets: The other files that images were found in; these may hold more than that.
        problems: Files that could not be kept as they should, each with the reason.
        left_out: How many files of which kind were left out.
        is_timed: Whether times of modification are kept.
        n_bare: How many images are pixels only, though their files held more.
    """

    taken: Sequence[Taken] = ()
    files: Mapping[Path, _Stamp] = field(default_factory=dict)
    data_sets: Sequence[Path] = ()
    problems: Sequence[str] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    is_timed: bool = True
    n_bare: int = 0

    @property
    def times(self) -> tuple[int, ...] | None:
        """When each member was last modified, in nanoseconds since 1970; None where no file has a time to keep."""
        if not self.is_timed or all(each.time is None for each in self.taken):
            return None
        return tuple(each.time or 0 for each in self.taken)

    def rest(self, i: int) -> bytes:
        """Returns what an image's file holds beside its pixels, behind the CRC32C of the file."""
        return self.taken[i].rest()

    def piece(self, i: int, number: int) -> bytes:
        """Returns a piece of a file, as it is."""
        read = self.taken[i].piece
        return read(number) if read is not None else super().piece(i, number)

    def packed(self, i: int) -> bytes:
        """Returns a file as its format packs it."""
        return self.taken[i].packed()

    def remove_files(self) -> list[Path]:
        """Removes the files that are still what they were when they were found; returns the others."""
        changed = [path for path, stamp in self.files.items() if not path.is_file() or _stamp(path) != stamp]
        for path in self.files.keys() - changed:
            path.unlink(missing_ok=True)  # Two paths may be of one file.
        return changed


def open_source(
    paths: Sequence[Path],
    standard_input: Callable[[], bytes] | None = None,
    selection: Selection | None = None,
    n_threads: int = 1,
) -> FileSource:
    """Returns the members at some paths: files, folders of them, and data sets of arrays.

    Files keep their names, those of a folder with the folder's name before them; the images of a data set are called
    NAME/00000.png and so on.

    Args:
        paths: The paths; ``-`` is an image file on standard input.
        standard_input: Reads standard input.
        selection: What to take and what to leave out; by default all pictures.
        n_threads: Files read side by side.

    Raises:
        NelboError: If there is nothing to archive, or two members would have the same name; if selection is strict,
            also for the first file that cannot be kept.
    """
    selection, spool = selection or Selection(), Spool()
    taken: list[Taken] = []
    data_sets: list[Path] = []
    found: list[Found] = []
    kept = Kept()
    for path in paths:
        if str(path) == "-" and standard_input is not None:
            taken.append(of_bytes(standard_input(), spool))
        elif path.is_dir() or _is_single(path, selection):
            found += found_in(path, selection, kept)
        else:
            try:
                taken += _data_set(open_images(path), path.stem)
                data_sets.append(path)
            except NelboError as error:
                kept.add_problem(f"{error}{'; --all stores any file' if path.is_file() else ''}", selection)
    with ThreadPoolExecutor(n_threads) as pool:
        for item, result in zip(found, pool.map(lambda item: attempt(item, selection, spool), found), strict=True):
            if isinstance(result, Refusal):
                problem = f"{item.path} cannot be kept as it is ({result.reason}): {result.advice}"
                kept.add_problem(problem, selection)
                continue
            taken.append(result)
            if result.note is not None:
                kept.add_problem(f"{item.path} is damaged ({result.note}): its own bytes are stored", selection)
            if item.is_removable:
                kept.files[item.path] = item.stamp
    if not taken:
        raise NelboError(_nothing(paths, kept))
    return _source(taken, kept, data_sets, selection)


def _source(taken: list[Taken], kept: Kept, data_sets: list[Path], selection: Selection) -> FileSource:
    entries = [each.entry for each in taken]
    is_timed = selection.is_timed and any(each.time is not None for each in taken)
    if needs_version_2(entries) or is_timed:  # What is coded alike stands together.
        taken = sorted(taken, key=_group)
        entries = [each.entry for each in taken]
    names: dict[str, str] = {}
    for each in taken:
        other = names.setdefault(each.entry.name, each.shown)
        if other is not each.shown:
            raise NelboError(
                f"{other} and {each.shown} would both be {each.entry.name!a} in the archive: rename one, "
                "or give the folder that holds both"
            )
    check_entries(entries, 2 if needs_version_2(entries) or is_timed else 1)
    n_bare = sum(isinstance(e, Entry) and not e.format for e in entries) if selection.is_bare else 0

    def read(i: int) -> Pixels:
        pixels = taken[i].pixels
        assert pixels is not None, "an image has pixels"
        return pixels()

    return FileSource(entries, read, taken, kept.files, data_sets, kept.problems, dict(kept.left_out), is_timed, n_bare)


def _group(each: Taken) -> tuple[bool, str]:
    entry = each.entry
    return isinstance(entry, FileEntry), entry.mode if isinstance(entry, Entry) else entry.format


def _nothing(paths: Sequence[Path], kept: Kept) -> str:
    if kept.problems:
        return kept.problems[0]
    named = ", ".join(map(str, paths[:3]))
    if kept.left_out:
        found = ", ".join(f"{n} {kind}" for kind, n in sorted(kept.left_out.items()))
        advice = "name another folder" if kept.left_out.keys() == {NOT_FILES} else "store files of any kind with --all"
        return f"{named} holds no images, but {found}: {advice}"
    return f"there are no images to compress in {named or 'nothing'}: pass image files, folders or data sets"


def _is_single(path: Path, selection: Selection) -> bool:
    """Returns whether a path is a file to be taken as one, not a data set."""
    is_images = path.suffix.lower() not in DATA_SETS and path.is_file() and is_picture_file(path)
    return is_images or (selection.takes_all and path.is_file())


def _stamp(path: Path) -> _Stamp:
    """Returns what a file has that another, or the same one written anew, has not."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _data_set(images: Images, stem: str) -> list[Taken]:
    c, h, w = images.shape

    def read(i: int) -> Pixels:
        rows = np.ascontiguousarray(images.read([i])[0].numpy().transpose(1, 2, 0))
        return rows[..., 0] if c == 1 else rows

    names = (f"{stem}/{i:05d}.png" for i in range(len(images)))
    entries = [Entry(name, w, h, MODES_OF_MODELS[c]) for name in names]
    return [Taken(entry, f"image {i} of {images.name}", pixels=lambda i=i: read(i)) for i, entry in enumerate(entries)]
