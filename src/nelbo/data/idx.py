"""The idx format of MNIST: 00 00 08, the number of dimensions, each as a big-endian uint32, then the bytes.

References:
    The MNIST database (LeCun, Cortes, Burges), "File formats". http://yann.lecun.com/exdb/mnist/
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from nelbo.data.arrays import from_array
from nelbo.data.images import Images
from nelbo.errors import NelboError

IMAGES_MAGIC = bytes([0, 0, 8, 3])
LABELS_MAGIC = bytes([0, 0, 8, 1])
GZIP_MAGIC = bytes([0x1F, 0x8B])


def is_idx(path: Path) -> bool:
    """Returns whether a file, gzipped or not, begins as idx images do, whatever its name."""
    try:
        return _start(path) == IMAGES_MAGIC
    except (OSError, EOFError, zlib.error):
        return False


def open_idx(path: Path) -> Images:
    """Opens idx images, mapped into memory unless gzipped, and the labels beside them.

    The label file of ``train-images-idx3-ubyte`` is ``train-labels-idx1-ubyte``, in the same folder.

    Raises:
        NelboError: A file is damaged or truncated, or their numbers differ.
    """
    labels = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    has_labels = labels != path and labels.is_file()
    return from_array(_read(path, IMAGES_MAGIC), str(path), labels=_read(labels, LABELS_MAGIC) if has_labels else None)


def _read(path: Path, magic: bytes) -> UInt8[np.ndarray, "..."]:
    """Returns the array of an idx file that should begin with ``magic``."""
    data = _bytes(path)
    n_dimensions = magic[3]
    start = 4 + 4 * n_dimensions
    if data[:4].tobytes() != magic or len(data) < start:
        raise NelboError(f"{path} does not begin as an idx file should: fetch it again, or move it away")
    shape = tuple(data[4:start].view(">u4").tolist())
    n_bytes = int(np.prod(shape, dtype=object))
    if len(data) - start != n_bytes:
        found = f"{len(data) - start} bytes where its header promises {n_bytes}"
        raise NelboError(f"{path} is damaged: it holds {found}: fetch it again")
    return data[start:].reshape(shape)


def _bytes(path: Path) -> UInt8[np.ndarray, " n"]:
    if path.stat().st_size == 0:
        return np.empty(0, np.uint8)  # Nothing cannot be mapped.
    if not _is_gzipped(path):
        return np.memmap(path, np.uint8, mode="r")
    try:
        return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)
    except (OSError, EOFError, zlib.error) as error:
        raise NelboError(f"{path} is damaged ({error}): fetch it again") from error


def _start(path: Path) -> bytes:
    with gzip.open(path) if _is_gzipped(path) else path.open("rb") as stream:
        return stream.read(4)


def _is_gzipped(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == GZIP_MAGIC
