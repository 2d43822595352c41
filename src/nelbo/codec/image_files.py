"""Image files and folders on their way into an archive and out of it: names, sizes, modes, and nothing altered."""

import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from nelbo.codec.layout import Pixels, Source
from nelbo.codec.tiles import MODES_OF_MODELS, pixel_shape
from nelbo.container.entries import MODES, Entry, check_entries, safe_member_path
from nelbo.data.encoded import one_line
from nelbo.data.folder import image_files
from nelbo.data.header import check_samples, is_image_file, open_image
from nelbo.data.images import Images
from nelbo.data.open import open_images
from nelbo.errors import NelboError
from nelbo.runtime.atomic import new_file

KEPT = (".png", ".bmp", ".tif", ".tiff")  # Lossless formats, which members are written in again; others become PNG.
_DATA_SETS = (".npz", ".npy", ".parquet", ".zip", ".gz")

_BMP_MODES = ("L", "RGB")  # Its alpha does not come back through Pillow.

_Reader = Callable[[], Pixels]
_Open = Callable[[], BytesIO | BufferedReader]
_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class FileSource(Source):
    """Images that were found at some paths.

    Attributes:
        files: The image files, each with what tells whether it has changed since.
        data_sets: The other files that images were found in; these may hold more than that.
    """

    files: Mapping[Path, _Stamp] = field(default_factory=dict)
    data_sets: Sequence[Path] = ()

    def remove_files(self) -> list[Path]:
        """Removes the image files that are still what they were when they were found; returns the others."""
        changed = [path for path, stamp in self.files.items() if not path.is_file() or _stamp(path) != stamp]
        for path in self.files.keys() - changed:
            path.unlink(missing_ok=True)  # Two paths may be of one file.
        return changed


def open_source(paths: Sequence[Path], standard_input: Callable[[], bytes] | None = None) -> FileSource:
    """Returns the images at some paths: image files, folders of them, and data sets of arrays.

    Files keep their names, those of a folder with the folder's name before them; files of a format that would lose
    something get .png after theirs, and the images of a data set are called NAME/00000.png and so on.

    Args:
        paths: The paths; ``-`` is an image file on standard input.
        standard_input: Reads standard input.

    Raises:
        NelboError: If there is nothing at a path, an image cannot be kept as it is, or two would have the same name.
    """
    found: list[tuple[Entry, _Reader]] = []
    files: dict[Path, _Stamp] = {}
    data_sets: list[Path] = []
    for path in paths:
        if str(path) == "-" and standard_input is not None:
            data = standard_input()
            found.append(_image("stdin.png", lambda data=data: BytesIO(data)))
        elif path.is_dir() and (names := image_files(path)):
            base = path.resolve().name
            files |= {path / name: _stamp(path / name) for name in names}
            found += [_file(path / name, f"{base}/{name}" if base else name) for name in names]
        elif path.is_file() and path.suffix.lower() not in _DATA_SETS and (is_image_file(path.name) or _is_image(path)):
            files[path] = _stamp(path)
            found.append(_file(path, path.name))
        else:
            data_sets.append(path)
            found += _data_set(open_images(path), path.stem)
    entries = [entry for entry, _ in found]
    if not entries:
        raise NelboError("there are no images to compress: pass image files, folders or data sets")
    check_entries(entries)
    return FileSource(entries, lambda i: found[i][1](), files, data_sets)


class Unpacked:
    """The folder that an archive's images are written to.

    Args:
        folder: The folder.
        force: Whether files that are there are overwritten. Those that were written here never are.
    """

    def __init__(self, folder: Path, force: bool = False) -> None:
        self._folder, self._force = folder, force
        self._written: dict[str, Path] = {}

    def check(self, entry: Entry) -> None:
        """Checks that an image may be written.

        Raises:
            NelboError: As :func:`member_path`, or if a file or a link is there.
        """
        self._check_free(member_path(entry, self._folder))

    def write(self, pixels: Pixels, entry: Entry) -> None:
        """Writes an image.

        Raises:
            NelboError: As :meth:`check`, if it is the same file as another image of the archive here, as names that
                differ in case or in Unicode's form alone may be, or if it cannot be written.
        """
        path = member_path(entry, self._folder)
        same = unicodedata.normalize("NFKC", str(path.parent.resolve() / path.name)).casefold()
        other = self._written.setdefault(same, path)
        if other is not path and path.exists() and path.samefile(other):
            raise NelboError(f"{path} and {other} are one file on this system: decompress the archive on another")
        self._check_free(path)
        with new_file(path) as temporary:
            try:
                Image.fromarray(np.ascontiguousarray(pixels)).save(temporary)
            except (OSError, ValueError) as error:
                raise NelboError(f"cannot write {path} with mode {entry.mode}: {error}") from None

    def _check_free(self, path: Path) -> None:
        if os.path.lexists(path) and not self._force:
            raise NelboError(f"{path} exists: choose another folder, or overwrite it with -f")


def member_path(entry: Entry, folder: Path) -> Path:
    """Returns where an image of an archive is written.

    Raises:
        NelboError: If its name would lead out of the folder, by a link in it, or it is of no lossless format.
    """
    path = folder / safe_member_path(entry.name)
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise NelboError(f"{entry.name!a} would be written outside of {folder}, through a link in it: remove the link")
    if path.suffix.lower() not in KEPT:
        raise NelboError(f"{entry.name!a} has no extension of {', '.join(KEPT)}: this archive is none of files")
    if path.suffix.lower() == ".bmp" and entry.mode not in _BMP_MODES:
        raise NelboError(f"{entry.name!a} has mode {entry.mode}, which no BMP file holds: read it with nelbo.Codec")
    return path


def _file(path: Path, name: str) -> tuple[Entry, _Reader]:
    return _image(name, lambda: path.open("rb"), str(path))


def _image(name: str, open_bytes: _Open, shown: str | None = None) -> tuple[Entry, _Reader]:
    shown = shown or name
    with _opened(open_bytes, shown) as image:
        if image.mode not in MODES:
            raise ValueError(f"mode {image.mode} is none of {', '.join(MODES)}")
        check_samples(image)
        entry = Entry(_member_name(name, image.mode), image.width, image.height, image.mode)
    return entry, lambda: _pixels(open_bytes, shown, entry)


def _member_name(name: str, mode: str) -> str:
    suffix = Path(name).suffix.lower()
    is_kept = suffix in KEPT and (suffix != ".bmp" or mode in _BMP_MODES)
    return name if is_kept else f"{name}.png"


def _pixels(open_bytes: _Open, shown: str, entry: Entry) -> Pixels:
    with _opened(open_bytes, shown) as image:
        pixels = np.array(image)
    pixels = pixels.astype(np.uint16) if entry.mode == "I;16" else pixels
    return pixels.reshape(pixel_shape(entry)) if pixels.size == np.prod(pixel_shape(entry)) else pixels


@contextmanager
def _opened(open_bytes: _Open, shown: str) -> Iterator[ImageFile]:
    with open_bytes() as stream:
        try:
            with open_image(stream) as image:
                yield image
        except Exception as error:  # Pillow's decoders meet damaged data with nearly every exception there is.
            raise NelboError(
                f"{shown} cannot be kept as it is ({one_line(error)}): convert it or leave it out"
            ) from None


def _is_image(path: Path) -> bool:
    try:
        with path.open("rb") as stream, open_image(stream):
            return True
    except Exception:  # As above.
        return False


def _stamp(path: Path) -> _Stamp:
    """Returns what a file has that another, or the same one written anew, has not."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _data_set(images: Images, stem: str) -> list[tuple[Entry, _Reader]]:
    c, h, w = images.shape

    def read(i: int) -> Pixels:
        rows = np.ascontiguousarray(images.read([i])[0].numpy().transpose(1, 2, 0))
        return rows[..., 0] if c == 1 else rows

    names = (f"{stem}/{i:05d}.png" for i in range(len(images)))
    return [(Entry(name, w, h, MODES_OF_MODELS[c]), lambda i=i: read(i)) for i, name in enumerate(names)]
