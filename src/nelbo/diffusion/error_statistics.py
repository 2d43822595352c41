"""The statistics of a denoiser's errors at one noise level, from which a reverse kernel's costs follow."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.diffusion.spectral_basis import Basis


@dataclass(frozen=True, eq=False)
class ErrorStatistics:
    r"""Means over images of the error :math:`e = \epsilon - \hat\epsilon` at one level, float64.

    Attributes:
        image_shape: Channels, height and width.
        mean_square: The mean of :math:`e^2` per dimension.
        covariance: The covariance of each two colours at each frequency of a block, shape (c, c, bh, bw).
        basis: The basis of the spectrum.
        ranges: The histogram of nu and the squared error, summed over pixels, of a model with learned variances.
    """

    image_shape: tuple[int, int, int]
    mean_square: Float[Tensor, ""]
    covariance: Float[Tensor, "c c bh bw"]
    basis: Basis
    ranges: Float[Tensor, "bins 4"] | None

    @property
    def n_dims(self) -> int:
        """Dimensions of one image."""
        channels, height, width = self.image_shape
        return channels * height * width

    @cached_property
    def spectrum(self) -> Float[Tensor, "c bh bw"]:
        """The mean square of each coordinate of the error in the basis, of one block."""
        colours = self.basis.colours
        return torch.einsum("ac,ad,cdhw->ahw", colours, colours, self.covariance).clamp(min=0)

    def spread_spectrum(self) -> Float[Tensor, "c h w"]:
        """Returns the spectrum of every coordinate of an image."""
        return self.basis.spread(self.spectrum, self.image_shape)
