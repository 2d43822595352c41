r"""The basis of the spectral kernel: an orthonormal transform of images into colour axes and spatial frequencies.

Isotropic noise looks the same in every orthonormal basis, and a denoiser's errors do not: they are large at the
coarse frequencies of luma and small elsewhere. In a basis :math:`U` of such axes their covariance is close to
diagonal, which is all that the spectral kernel needs.

.. math:: (U x)_{a, k, l} = \sum_{c, i, j} A_{a c}\, D_{k i}\, D_{l j}\, x_{c, i, j}, \qquad
          D_{k i} = \sqrt{\tfrac{2 - \delta_{k 0}}{n}} \cos\frac{\pi (i + \frac12) k}{n}

with orthonormal colour axes :math:`A` and the discrete cosine transform :math:`D` of each side; an image larger than
32 pixels is cut into equal blocks first.

References:
    Discrete Cosine Transform (Ahmed, Natarajan & Rao, 1974). https://doi.org/10.1109/T-C.1974.223784
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

MAX_BLOCK = 32


@dataclass(frozen=True, eq=False)
class Basis:
    """An orthonormal basis of images.

    Attributes:
        colours: Orthonormal colour axes as rows, float64, shape (c, c).
        block: Height and width of the blocks that are transformed.
    """

    colours: Float[Tensor, "c c"]
    block: tuple[int, int]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Returns the coordinates of images, each block's frequencies where its pixels were."""
        return _per_block(x, self.block, self.colours, *map(dct_matrix, self.block))

    def inverse(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Returns the images of coordinates, the inverse of :meth:`forward`."""
        return _per_block(y, self.block, self.colours.T, *(dct_matrix(side).T for side in self.block))

    def spread(self, spectrum: Float[Tensor, "c bh bw"], image_shape: tuple[int, ...]) -> Float[Tensor, "c h w"]:
        """Returns one number per coordinate of an image from one per coordinate of a block."""
        return spectrum.repeat(1, image_shape[1] // self.block[0], image_shape[2] // self.block[1])


def plain_basis(image_shape: tuple[int, int, int]) -> Basis:
    """Returns the basis of images of a shape whose colour axes are the channels themselves."""
    n_channels, height, width = image_shape
    return Basis(torch.eye(n_channels, dtype=torch.float64), (block_side(height), block_side(width)))


def block_side(side: int) -> int:
    """Returns the largest divisor of an image's side that is at most 32.

    Example:
        >>> [block_side(side) for side in (28, 32, 64, 100, 37)]
        [28, 32, 32, 25, 1]
    """
    return max(divisor for divisor in range(1, min(side, MAX_BLOCK) + 1) if side % divisor == 0)


def dct_matrix(n: int) -> Float[Tensor, "n n"]:
    """Returns the orthonormal discrete cosine transform of n points (type II), one frequency a row, float64."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    scale = torch.full((n, 1), math.sqrt(2 / n), dtype=torch.float64)
    scale[0] = math.sqrt(1 / n)
    return scale * torch.cos(math.pi / n * (i + 0.5) * k)


def principal_axes(covariance: Float[Tensor, "c c"]) -> Float[Tensor, "c c"]:
    """Returns the eigenvectors of a covariance as rows, largest variance first, each with a positive sum."""
    axes = torch.linalg.eigh(covariance.double()).eigenvectors.T.flip(0)
    sign = torch.where(axes.sum(1, keepdim=True) < 0, -1.0, 1.0)
    return (sign * axes).contiguous()


def _per_block(
    x: Float[Tensor, "b c h w"],
    block: tuple[int, int],
    colours: Float[Tensor, "c c"],
    rows: Float[Tensor, "k k"],
    columns: Float[Tensor, "l l"],
) -> Float[Tensor, "b c h w"]:
    """Applies one matrix to the channels, one to the rows and one to the columns of each block."""
    b, c, h, w = x.shape
    with torch.autocast(x.device.type, enabled=False):  # Which would multiply matrices in bfloat16.
        mixed = torch.einsum("ac,bchw->bahw", colours.to(x), x)
        blocks = mixed.reshape(b, c, h // block[0], block[0], w // block[1], block[1])
        left = torch.einsum("ki,bcyizj->bcykzj", rows.to(x), blocks)
        return torch.einsum("lj,bcykzj->bcykzl", columns.to(x), left).reshape(b, c, h, w)
