"""Feature maps of the native executor, and the digits of 16 bits in which its convolutions read them.

Feature maps are (batch, position, channel) in float32; digits are (digit, batch, row, column, channel) in 16 bits with
a border of zeros, in most cases a single digit. Images are in memory channels last.
"""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
from torch import Tensor

from nelbo.integer.arithmetic import Limbs
from nelbo.runtime.loops import compiled
from nelbo.runtime.threads import share

N_SPARE_POSITIONS = 8  # What convolutions read in vain behind the end of the last row, at most.


@dataclass(frozen=True)
class Map:
    """A feature map.

    Attributes:
        values: Integers in float32, (batch, position, channel).
        sides: Height and width.
    """

    values: np.ndarray
    sides: tuple[int, int]

    @property
    def images(self) -> Tensor:
        """The values as images, (batch, channel, height, width).

        NumPy makes views several times faster than PyTorch, which counts for one image.
        """
        rows = self.values.reshape(-1, *self.sides, self.values.shape[-1])
        return torch.from_numpy(rows.transpose(0, 3, 1, 2))

    @classmethod
    def of(cls, images: Tensor) -> "Map":
        """Returns images as a feature map."""
        height, width = images.shape[2:]
        values = images.float().movedim(1, -1).reshape(len(images), height * width, -1).contiguous()
        return cls(values.numpy(), (height, width))


@dataclass(frozen=True)
class Digits:
    """The digits of a feature map.

    Attributes:
        values: Integers in 16 bits, (digit, batch, row, column, channel), with their border.
        sides: Height and width without the border.
    """

    values: np.ndarray
    sides: tuple[int, int]


@dataclass(frozen=True)
class DigitFormat:
    """How a convolution reads feature maps.

    Attributes:
        limbs: Into which digits they are split.
        in_shift: By how many bits they are shortened before.
        padding: The width of the border of zeros.
    """

    limbs: Limbs
    in_shift: int
    padding: int

    def empty(self, n_images: int, sides: tuple[int, int], n_channels: int) -> np.ndarray:
        """Returns the place for the digits of a feature map, zeros with their border."""
        return padded(self.limbs.count, n_images, sides, n_channels, self.padding)

    def split(self, x: Map) -> Digits:
        """Returns the digits of a feature map."""
        out = self.empty(len(x.values), x.sides, x.values.shape[2])
        arguments = x.values, self.in_shift, self.limbs.count, self.limbs.bits, out, self.padding
        share(len(x.values), lambda start, stop: split_into(*arguments, start, stop))
        return Digits(out, x.sides)


def padded(n_digits: int, n_images: int, sides: tuple[int, int], n_channels: int, padding: int) -> np.ndarray:
    """Returns zeros for digits and a border around them, with an even number of channels."""
    height, width = (side + 2 * padding for side in sides)
    shape = (n_digits, n_images, height, width, n_channels + n_channels % 2)
    # Behind the end lies what the last positions of a block read in vain: of a stride up to the size of the filter.
    spare = N_SPARE_POSITIONS * width * shape[-1]
    return np.zeros(int(np.prod(shape)) + spare, np.int16)[:-spare].reshape(shape)


@compiled
@no_type_check
def write_digits(row, in_scale, count, bits, out, image, y, padding):  # noqa: ANN001, ANN201 (numba infers the types)
    """Writes the digits of a row of positions, integers rounded by the input's shift, in place of ``row``."""
    down, up = np.float32(0.5**bits), np.float32(2.0**bits)
    half = np.float32(0.5)
    width, n_even = out.shape[3] - 2 * padding, out.shape[4]
    is_dense = width * n_even == row.size  # One long loop then.
    n_parts, size = (1, row.size) if is_dense else (width, row.size // width)
    if in_scale != 1:
        for i in range(row.size):
            row[i] = np.floor(row[i] * in_scale + half)
    for digit in range(count):
        line = out[digit, image, y + padding].reshape(-1)
        for part in range(n_parts):
            values = row[part * size : (part + 1) * size]
            digits = line[(padding + part) * n_even : (padding + part) * n_even + size]
            if digit == count - 1:
                for i in range(size):
                    digits[i] = np.int16(values[i])
            else:
                for i in range(size):
                    above = np.floor(values[i] * down + half)
                    digits[i] = np.int16(values[i] - above * up)
                    values[i] = above


@compiled
@no_type_check
def split_into(x, in_shift, count, bits, out, padding, start, stop):  # noqa: ANN001, ANN201 (numba infers the types)
    """Writes the digits of a feature map."""
    width, height = out.shape[3] - 2 * padding, out.shape[2] - 2 * padding
    row = np.empty(width * x.shape[2], np.float32)
    for image in range(start, stop):
        values = x[image].reshape(height, row.size)
        for y in range(height):
            for i in range(row.size):
                row[i] = values[y, i]
            write_digits(row, np.float32(0.5**in_shift), count, bits, out, image, y, padding)
