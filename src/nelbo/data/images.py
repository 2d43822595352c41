"""What every data set is to the rest of the program: a lazily read sequence of 8-bit images of one size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer, UInt8
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Images(ABC):
    """A sequence of 8-bit grey or RGB images of one size, read when asked for.

    Safe to read from several threads, and from processes forked after it was opened.

    Attributes:
        name: Where the images come from, as the user wrote it.
        shape: The shape (C, H, W) of every image; C is 1 (grey) or 3 (RGB).
        labels: The class of every image, where the source has one.
    """

    name: str
    shape: tuple[int, int, int]
    labels: Int64[np.ndarray, " n"] | None = field(repr=False)

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of images."""

    @abstractmethod
    def _read(self, indices: Int64[np.ndarray, " b"]) -> UInt8[np.ndarray, "b c h w"]:
        """Returns newly allocated pixels; the indices have been checked."""

    def read(self, indices: Sequence[int] | Integer[np.ndarray, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Returns the images at ``indices``, in that order, as one contiguous tensor.

        Args:
            indices: Positions from 0 to ``len(self) - 1``; they may repeat.

        Raises:
            IndexError: An index is out of range. Negative indices are.
            NelboError: An image cannot be decoded; the message names it.
        """
        return torch.from_numpy(np.ascontiguousarray(self._read(_checked(indices, len(self)))))

    def read_at(
        self, indices: Sequence[int] | Integer[np.ndarray, " b"], places: Float[np.ndarray, "b 2"]
    ) -> UInt8[Tensor, "b c h w"]:
        """Returns images as :meth:`read` does, of larger pictures the window at a chosen place instead of the centre.

        Args:
            indices: As for :meth:`read`.
            places: Across and down, 0 for left and top to 1 for right and bottom; images that have always one size
                have no such choice.
        """
        return torch.from_numpy(np.ascontiguousarray(self._read_at(_checked(indices, len(self)), places)))

    def _read_at(
        self, indices: Int64[np.ndarray, " b"], places: Float[np.ndarray, "b 2"]
    ) -> UInt8[np.ndarray, "b c h w"]:
        return self._read(indices)

    @property
    def preparation(self) -> str:
        """What is done to the pictures before they are images; empty for images that are used as they are."""
        return ""

    def select(self, indices: Sequence[int] | Integer[np.ndarray, " m"]) -> Images:
        """Returns a view of the images at ``indices``, in that order: a held-out part, or a shuffle.

        Args:
            indices: Positions from 0 to ``len(self) - 1``; they may repeat.

        Raises:
            IndexError: An index is out of range.
        """
        chosen = _checked(indices, len(self))
        labels = None if self.labels is None else self.labels[chosen]
        return SubsetImages(self.name, self.shape, labels, self, chosen)


@dataclass(frozen=True, eq=False)
class SubsetImages(Images):
    """Chosen images of another data set."""

    images: Images
    indices: Int64[np.ndarray, " n"] = field(repr=False)

    def __len__(self) -> int:
        return len(self.indices)

    def _read(self, indices: Int64[np.ndarray, " b"]) -> UInt8[np.ndarray, "b c h w"]:
        return self.images.read(self.indices[indices]).numpy()

    def _read_at(
        self, indices: Int64[np.ndarray, " b"], places: Float[np.ndarray, "b 2"]
    ) -> UInt8[np.ndarray, "b c h w"]:
        return self.images.read_at(self.indices[indices], places).numpy()

    @property
    def preparation(self) -> str:
        """What is done to the pictures before they are images."""
        return self.images.preparation


def describe(shape: tuple[int, int, int]) -> str:
    """Returns an image's kind and size for people, width first as image tools write it.

    Example:
        >>> describe((3, 24, 32))
        'RGB 32x24'
    """
    n_channels, height, width = shape
    return f"{'RGB' if n_channels == 3 else 'grey'} {width}x{height}"


def _checked(indices: Sequence[int] | Integer[np.ndarray, " b"], n_images: int) -> Int64[np.ndarray, " b"]:
    array = np.asarray(indices)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"indices must be integers, not {array.dtype}")
    bad = array[(array < 0) | (array >= n_images)]
    if bad.size:
        raise IndexError(f"index {bad[0]} is out of range for {n_images} images")
    return array.astype(np.int64)
