"""Images that lie encoded, one by one, in a folder, an archive or a column of a table."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO

import numpy as np
from jaxtyping import Int64, UInt8

from nelbo.data.header import image_shape, open_image
from nelbo.data.images import Images, describe
from nelbo.errors import NelboError, one_line


class EncodedFiles(ABC):
    """Where encoded images lie: their number, their names, and their bytes."""

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of images."""

    @abstractmethod
    def item_name(self, index: int) -> str:
        """Returns what an error message calls an image."""

    @abstractmethod
    def open(self, index: int) -> BytesIO | BufferedReader:
        """Opens an image's bytes for reading."""


@dataclass(frozen=True, eq=False)
class EncodedImages(Images):
    """Images decoded one by one, each time they are read."""

    source: EncodedFiles = field(repr=False)

    def __len__(self) -> int:
        return len(self.source)

    def _read(self, indices: Int64[np.ndarray, " b"]) -> UInt8[np.ndarray, "b c h w"]:
        pixels = np.empty((len(indices), *self.shape), np.uint8)
        for place, index in zip(pixels, indices.tolist(), strict=True):
            place[...] = self._decode(index)
        return pixels

    def _decode(self, index: int) -> UInt8[np.ndarray, "c h w"]:
        try:
            # All bytes are read first: only at its end does an archive member's checksum get compared.
            with self.source.open(index) as stream, open_image(BytesIO(stream.read())) as image:
                if image_shape(image) != self.shape:
                    raise ValueError("its size or mode has changed since it was opened")
                rows = np.asarray(image)
        except Exception as error:  # Pillow's decoders meet damaged data with nearly every exception there is.
            problem = f"{self.source.item_name(index)} cannot be read: {one_line(error)}"
            raise NelboError(f"{self.name}: {problem}; replace the file or remove it") from error
        return np.moveaxis(rows.reshape(*self.shape[1:], self.shape[0]), -1, 0)


def open_encoded(name: str, source: EncodedFiles) -> EncodedImages:
    """Opens encoded images after reading the header, not the pixels, of every one of them.

    Args:
        name: What to call the data set.
        source: Where its images lie; at least one.

    Raises:
        NelboError: Some are damaged, not 8-bit grey or RGB, or not like the others; the message names up to
            three of them.
    """
    findings = [_shape_or_problem(source, index) for index in range(len(source))]
    counts = Counter(finding for finding in findings if not isinstance(finding, str))
    shape = counts.most_common(1)[0][0] if counts else None
    at_fault = [
        f"{source.item_name(index)} ({_explain(finding, shape)})"
        for index, finding in enumerate(findings)
        if finding != shape
    ]
    if at_fault or shape is None:
        raise NelboError(
            f"{name}: {len(at_fault)} of {len(source)} images cannot be used: {name_some(at_fault)}; "
            "convert all to 8-bit RGB or greyscale (Pillow's modes RGB or L) of one size, or remove these; "
            f"nelbo data folder {name} --size 64 --out images.npz makes one size of all"
        )
    return EncodedImages(name, shape, None, source)


def name_some(names: Sequence[str], n_named: int = 3) -> str:
    """Returns the first names in words, and how many more there are.

    Example:
        >>> name_some(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    more = f" and {len(names) - n_named} more" if len(names) > n_named else ""
    return ", ".join(names[:n_named]) + more


def _shape_or_problem(source: EncodedFiles, index: int) -> tuple[int, int, int] | str:
    try:
        with source.open(index) as stream, open_image(stream) as image:
            return image_shape(image)
    except Exception as error:  # As in EncodedImages: damaged headers raise nearly everything.
        return one_line(error)


def _explain(finding: tuple[int, int, int] | str, usual: tuple[int, int, int] | None) -> str:
    if isinstance(finding, str) or usual is None:
        return str(finding)
    return f"{describe(finding)} where most are {describe(usual)}"
