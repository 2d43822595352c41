"""Images held in one array: in memory, in an .npz, or memory-mapped from an .npy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int64, UInt8
from numpy.lib.npyio import NpzFile
from torch import Tensor

from nelbo.data.images import Images
from nelbo.errors import NelboError, one_line
from nelbo.runtime.atomic import new_file

LAYOUTS = "uint8 pixels shaped N H W, N H W C or N C H W, with C = 1 (grey) or 3 (RGB)"

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class ArrayImages(Images):
    """Images of one array, in memory or mapped from a file."""

    pixels: UInt8[np.ndarray, "n c h w"] = field(repr=False)

    def __len__(self) -> int:
        return len(self.pixels)

    def _read(self, indices: Int64[np.ndarray, " b"]) -> UInt8[np.ndarray, "b c h w"]:
        return np.asarray(self.pixels[indices])


Labels = np.ndarray | Tensor | Sequence[int]


def as_images(data: Images | np.ndarray | Tensor, labels: Labels | None = None) -> Images:
    """Returns a data set as it is, and an array as one, with the class of each image where there are any.

    Raises:
        NelboError: If labels are given with a data set, which has its own; see :func:`from_array` too.
    """
    if not isinstance(data, Images):
        return from_array(data, labels=labels)
    if labels is not None:
        raise NelboError(
            f"{data.name} is a data set with labels of its own: give labels= with an array of images alone"
        )
    return data


def from_array(array: np.ndarray | Tensor, name: str = "array", labels: Labels | None = None) -> Images:
    """Returns the images of an array, without copying it.

    Args:
        array: uint8, shaped N H W, N H W C or N C H W, with C = 1 or 3. Where both of the last two fit, an
            array is taken channels last, as image libraries have it, and a tensor channels first, as torch.
        name: What to call them in messages.
        labels: The class of each image, integers of any type: an array, a tensor or a list.

    Raises:
        NelboError: The array or the labels are of another type or shape, or there are no images.

    Example:
        >>> from_array(np.zeros((2, 32, 32, 3), np.uint8), labels=[3, 8]).labels
        array([3, 8])
    """
    if isinstance(array, Tensor):
        pixels = _channels_first(array.detach().cpu().numpy(), name, channel_axes=(1, 3))
    else:
        pixels = _channels_first(array, name, channel_axes=(3, 1))
    _, n_channels, height, width = pixels.shape
    return ArrayImages(name, (n_channels, height, width), _checked_labels(labels, len(pixels), name), pixels)


def open_npy(path: Path) -> Images:
    """Maps an .npy file into memory; pixels are read from the disk when they are asked for.

    Raises:
        NelboError: It is damaged, or does not hold 8-bit images.
    """
    return from_array(_load(path, lambda: _mapped(path)), str(path))


def open_npz(path: Path) -> Images:
    """Reads an .npz file: the array ``images``, else its only array of images, and ``labels`` if present.

    Raises:
        NelboError: It is damaged, or does not hold 8-bit images, or holds several arrays of them.
    """
    pixels, labels = _load(path, lambda: _images_and_labels(path))
    return from_array(pixels, str(path), labels)


def save_npz(images: Images, path: Path, progress: Callable[[int], object] = lambda n: None) -> None:
    """Writes images, and labels where there are some, as :func:`open_npz` reads them, whole or not at all.

    Args:
        images: The images.
        path: Where to.
        progress: Called with the number of images done since the last call.
    """
    n_channels, height, width = images.shape
    pixels = np.empty((len(images), height, width, n_channels), np.uint8)
    for start in range(0, len(images), 64):
        part = range(start, min(start + 64, len(images)))
        pixels[start : part.stop] = images.read(part).permute(0, 2, 3, 1).numpy()
        progress(len(part))
    with new_file(path) as temporary, temporary.open("wb") as stream:
        if images.labels is None:
            np.savez(stream, images=pixels)
        else:
            np.savez(stream, images=pixels, labels=images.labels)


def _load(path: Path, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except NelboError:
        raise
    except OSError:
        raise
    except Exception as error:  # NumPy and zipfile meet damaged data with nearly every exception there is.
        problem = f"{path} is damaged or no array file of numbers ({one_line(error)})"
        raise NelboError(f"{problem}: write it with numpy.save or numpy.savez") from error


def _mapped(path: Path) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError("an archive of arrays: name it .npz")
    return array


def _images_and_labels(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    # Opened here, because numpy leaves a damaged file open.
    with path.open("rb") as stream, _archive(stream) as archive:
        pixels = archive["images"] if "images" in archive else _only_images(path, archive)
        return pixels, archive.get("labels")


def _archive(stream: BufferedReader) -> NpzFile:
    archive = np.load(stream, allow_pickle=False)
    if not isinstance(archive, NpzFile):
        raise ValueError("one array: name it .npy")
    return archive


def _only_images(path: Path, archive: NpzFile) -> np.ndarray:
    found = [key for key in archive.files if isinstance(archive[key], np.ndarray) and _is_images(archive[key])]
    if len(found) != 1:
        among = f"{len(found)} arrays of images" if found else "no array of images"
        raise NelboError(f"{path} holds {among} among {sorted(archive.files)}: save one, as 'images', {LAYOUTS}")
    return archive[found[0]]


def _is_images(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.ndim in (3, 4)


def _channels_first(array: np.ndarray, name: str, channel_axes: tuple[int, int]) -> UInt8[np.ndarray, "n c h w"]:
    wanted = f"{name} holds {array.dtype} of shape {tuple(array.shape)}: expected {LAYOUTS}"
    if not _is_images(array):
        raise NelboError(wanted)
    if 0 in array.shape:
        raise NelboError(f"{name} is empty (shape {tuple(array.shape)}): expected {LAYOUTS}")
    if array.ndim == 3:
        return array[:, np.newaxis]
    for axis in channel_axes:
        if array.shape[axis] in (1, 3):
            return np.moveaxis(array, axis, 1)
    raise NelboError(wanted)


def _checked_labels(labels: Labels | None, n_images: int, name: str) -> Int64[np.ndarray, " n"] | None:
    if labels is None:
        return None
    labels = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.shape != (n_images,):
        found = f"labels of type {labels.dtype} and shape {labels.shape}"
        raise NelboError(f"{name} has {found}: expected {n_images} integers, one for each image")
    return labels.astype(np.int64)
