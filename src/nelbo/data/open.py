"""Opens a data set: one table from file name extensions to the functions that open them.

================================  =========================================================================
folder, ``.zip``                  image files, at any depth, in the order of their paths; other and hidden
                                  files are passed over
``.npz``                          the array ``images``, else the only array of 8-bit images; ``labels``
``.npy``                          one array, memory-mapped
``.parquet``                      a column of encoded images, as Hugging Face data sets store them
idx, whatever its name, ``.gz``   the format of MNIST, with the label file beside it
================================  =========================================================================

Arrays are N H W, N H W C or N C H W with C = 1 or 3; where both of the last two fit, N H W C is meant.
EXIF orientation is not applied.
"""

from collections.abc import Callable
from pathlib import Path

from nelbo.data.arrays import open_npy, open_npz
from nelbo.data.encoded import EncodedFiles, name_some, open_encoded
from nelbo.data.fitting import Fit, fit_images, open_fitted
from nelbo.data.folder import FolderSource, image_files
from nelbo.data.idx import is_idx, open_idx
from nelbo.data.images import Images
from nelbo.data.parquet import open_parquet, parquet_source
from nelbo.data.zipped import open_zip, zip_source
from nelbo.errors import NelboError
from nelbo.runtime.bundled import bundled_images

OPENERS: dict[str, Callable[[Path], Images]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".parquet": open_parquet,
    ".zip": open_zip,
}
"""What opens a file, by its extension. Folders and idx files are recognised by what they are."""


SOURCES: dict[str, Callable[[Path], EncodedFiles]] = {".parquet": parquet_source, ".zip": zip_source}
"""What finds encoded images in a file, which may then be of any size."""


def open_images(path: str | Path, fit: Fit | None = None) -> Images:
    """Opens a data set of 8-bit grey or RGB images of one size, or of any size with ``fit``.

    The header of every image file is read here, so that unsuitable ones are all reported before any work;
    pixels are decoded by `Images.read`.

    Args:
        path: A folder of image files, a ``.zip`` of them, an ``.npz``, ``.npy``, ``.parquet`` or idx file, or the
            name of a bundled set, such as ``cifar10-test-256``.
        fit: How pictures of any size become images of one size; None where they have one.

    Raises:
        NelboError: There is nothing at ``path``, or it is not a data set of 8-bit grey or RGB images of one
            size; the message names up to three of the files at fault.
    """
    path = bundled_images().get(str(path), Path(path))
    try:
        return _opener(path)(path) if fit is None else _fitted(path, fit)
    except OSError as error:
        raise NelboError(f"{path} cannot be read: {error.strerror or error}") from error


def _opener(path: Path) -> Callable[[Path], Images]:
    if not path.exists():
        raise NelboError(f"{path} does not exist: pass a folder, .zip, .npz, .npy, .parquet or idx file of images")
    if path.is_dir():
        return _open_directory
    if not path.is_file():
        raise NelboError(f"{path} is no regular file: pass a folder, .zip, .npz, .npy, .parquet or idx file of images")
    if path.suffix.lower() in OPENERS:
        return OPENERS[path.suffix.lower()]
    if is_idx(path):
        return open_idx
    raise NelboError(f"{path} is no data set: pass a folder, .zip, .npz, .npy, .parquet or idx file of images")


def _fitted(path: Path, fit: Fit) -> Images:
    find = _directory_source if path.is_dir() else SOURCES.get(path.suffix.lower())
    return fit_images(_opener(path)(path), fit) if find is None else open_fitted(str(path), find(path), fit)


def _open_directory(path: Path) -> Images:
    return open_encoded(str(path), _directory_source(path))


def _directory_source(path: Path) -> EncodedFiles:
    names = image_files(path)
    if names:
        return FolderSource(path, names)
    instead = [str(file) for file in sorted(path.rglob("*")) if _is_data_set(file)]
    if instead:
        raise NelboError(f"{path} holds no image files: pass a data set in it instead: {name_some(instead)}")
    raise NelboError(f"{path} holds no image files: pass a folder of PNG, JPEG or similar files")


def _is_data_set(path: Path) -> bool:
    return path.is_file() and (path.suffix.lower() in OPENERS or is_idx(path))
