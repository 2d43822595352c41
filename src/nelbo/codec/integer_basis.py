r"""The fixed orthonormal basis in exact arithmetic: cosines over rows and columns, axes over colours.

The chain's latents live on a lattice in this basis, the network in pixels. Both maps,

.. math:: c_{a k l} = \sum_{r i j} U_{a r} D_{k i} D_{l j}\, x_{r i j}, \qquad
          x_{r i j} = \sum_{a k l} U_{a r} D_{k i} D_{l j}\, c_{a k l}, \qquad
          D_{k i} = \sqrt{\tfrac{2 - [k = 0]}{n}} \cos \tfrac{\pi (2 i + 1) k}{2 n},

(block by block, as in :mod:`nelbo.diffusion.spectral_basis`) take integers to integers in the same unit, by matrices of
integers in units of 2^-26 and one rounding for each axis. They are functions that every machine agrees on, and each
other's inverse but for rounding. The cosines come from the decimal module, not from libm; sums are of integers below
2^53 in float64, and exact in any order.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.errors import NelboError
from nelbo.runtime.decimals import exact_decimals

MATRIX_BITS = 26
COORDINATE_LIMIT = 2**31  # Values, also between axes, are clamped here: 2048 at 2^-20.
_LOW_BITS = 20  # Integers are multiplied in two parts, so that each sum stays below 2^53.
_LONGEST_SIDE = 1024
_DIGITS = 50
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")


class FixedBasis:
    """An orthonormal basis of images, colour axes and the cosines of equal blocks, as exact maps between integers.

    Args:
        colours: The colour axes, one a row, as integers in units of 2^-26; :func:`fixed_axes` makes them.
        block: Height and width of the blocks, which divide those of the images; frequencies stand where the block's
            pixels were.

    Raises:
        NelboError: If the colour axes are not orthonormal, or a side is too long.
    """

    def __init__(self, colours: Int[Tensor, "c c"], block: tuple[int, int]) -> None:
        if not _is_orthonormal(colours):
            raise NelboError(f"the colour axes of a basis are orthonormal rows, got {colours.tolist()}")
        if not 1 <= min(block) <= max(block) <= _LONGEST_SIDE:
            raise NelboError(f"the blocks of a basis have sides of 1 to {_LONGEST_SIDE} pixels, got {block}")
        self.block = block
        self._axes = (colours.double(), cosines(block[0]).double(), cosines(block[1]).double())

    def coordinates(self, pixels: Int[Tensor, "b c h w"]) -> Int[Tensor, "b c h w"]:
        """Returns the coordinates of images of integers, in the same unit."""
        return self._transform(pixels, self._axes)

    def pixels(self, coordinates: Int[Tensor, "b c h w"]) -> Int[Tensor, "b c h w"]:
        """Returns the images of integers that coordinates stand for, in the same unit."""
        return self._transform(coordinates, [axes.T for axes in self._axes])

    def _transform(self, x: Int[Tensor, "b c h w"], axes: Sequence[Tensor]) -> Int[Tensor, "b c h w"]:
        """Returns a tensor with the axes of each block multiplied by matrices, rounded and clamped after each."""
        sides = (len(axes[0]), x.shape[2] // self.block[0], self.block[0], x.shape[3] // self.block[1], self.block[1])
        blocks = x.reshape(len(x), *sides)
        for axis, matrix in zip((1, 3, 5), axes, strict=True):
            blocks = blocks.clamp(-COORDINATE_LIMIT, COORDINATE_LIMIT).movedim(axis, -1)
            blocks = _multiply(matrix.to(x.device), blocks).movedim(-1, axis)
        return blocks.reshape(x.shape)


def fixed_axes(axes: Float[Tensor, "c c"]) -> Int[Tensor, "c c"]:
    """Returns orthonormal axes, one a row, as integers in units of 2^-26.

    Integers are what a file should keep of axes that were computed in floating point.
    """
    return (axes.double() * 2**MATRIX_BITS).round().long()


@lru_cache(maxsize=16)
def cosines(n: int) -> Int[Tensor, "n n"]:
    """Returns the matrix of the orthonormal discrete cosine transform (type II) in units of 2^-26.

    Example:
        >>> cosines(2)
        tensor([[ 47453133,  47453133],
                [ 47453133, -47453133]])
    """
    with exact_decimals(_DIGITS):
        quarter = [_cosine(m, n) for m in range(n + 1)]
        entries = [[_of_turn((2 * i + 1) * k, n, quarter) for i in range(n)] for k in range(n)]
        scales = [(Decimal(1 if k == 0 else 2) / n).sqrt() for k in range(n)]
        rows = [[_rounded(s * entry) for entry in row] for s, row in zip(scales, entries, strict=True)]
    return torch.tensor(rows)


def _cosine(m: int, n: int) -> Decimal:
    r"""Returns :math:`\cos(\pi m / 2n)` for m from 0 to n, by its series: the terms shrink from the second on."""
    angle = _PI * m / (2 * n)
    square, term, total, k = angle * angle, Decimal(1), Decimal(1), 0
    while abs(term) > Decimal("1e-45"):
        k += 2
        term = -term * square / (k * (k - 1))
        total += term
    return total


def _of_turn(m: int, n: int, quarter: Sequence[Decimal]) -> Decimal:
    r"""Returns :math:`\cos(\pi m / 2n)` for any m, from those of the first quarter turn."""
    m %= 4 * n
    m = min(m, 4 * n - m)
    return quarter[m] if m <= n else -quarter[2 * n - m]


def _rounded(value: Decimal) -> int:
    return int((value * 2**MATRIX_BITS).to_integral_value())


def _is_orthonormal(axes: Int[Tensor, "c c"]) -> bool:
    rows = axes.double() / 2**MATRIX_BITS
    return bool(((rows @ rows.T - torch.eye(len(rows))).abs() < 1e-6).all())


def _multiply(matrix: Float[Tensor, "n n"], x: Int[Tensor, "*m n"]) -> Int[Tensor, "*m n"]:
    r"""Returns :math:`\lfloor M x\, 2^{-26} + \tfrac12 \rfloor`, exactly.

    A row of M has an L1 norm of at most :math:`2^{26} \sqrt n`, so that for n up to 1024 the sums of the low parts are
    below :math:`2^{51}`, and the joint ones below :math:`2^{62}`.
    """
    high = x >> _LOW_BITS
    low = x - (high << _LOW_BITS)
    sums = [(part.double() @ matrix.T).long() for part in (high, low)]
    return ((sums[0] << _LOW_BITS) + sums[1] + (1 << (MATRIX_BITS - 1))) >> MATRIX_BITS
