r"""A Gaussian entry: where a chain starts, the Gaussian nearest to the latents of real images.

The usual prior :math:`\mathcal N(0, I)` fits the noisiest latents alone. Images have a mean and a spectrum, and where
a chain enters later, at a gamma of 2 or 0, a Gaussian with both fits as well as a network's first calls would:

.. math:: p(z_t) = \mathcal N\bigl(\alpha_t \mu,\ U^\top \mathrm{diag}(\alpha_t^2 S + \sigma_t^2)\, U\bigr)

with the basis :math:`U` of the spectral kernel and, per coordinate, the mean :math:`\mu` and variance :math:`S` of the
training images. With :math:`\rho = \mathrm{SNR}_t` its cost is

.. math:: \mathrm{KL}(q(z_t \mid x) \parallel p(z_t)) = \tfrac12 \sum_k \Bigl(\ln(1 + \rho S_k) - 1
          + \frac{1 + \rho\, (U(x - \mu))_k^2}{1 + \rho S_k}\Bigr),

which is :math:`\tfrac12 \sum_k \ln(1 + \rho S_k)` on average over images of that very mean and spectrum.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.diffusion.gaussian import alpha, over_image, sigma
from nelbo.diffusion.spectral_basis import Basis, plain_basis, principal_axes
from nelbo.errors import NelboError


@dataclass(frozen=True, eq=False)
class GaussianEntry:
    """The Gaussian of images in a spectral basis.

    Attributes:
        basis: The basis.
        mean: The mean image's coordinates, one for each of a block, float64, shape (c, bh, bw).
        variance: The variance of each coordinate, float64, shape (c, bh, bw).
    """

    basis: Basis
    mean: Float[Tensor, "c bh bw"]
    variance: Float[Tensor, "c bh bw"]

    def kl(self, x: Float[Tensor, "b c h w"], gamma: Float[Tensor, ""]) -> Float[Tensor, " b"]:
        r"""Returns :math:`\mathrm{KL}(q(z_t \mid x) \parallel p(z_t))` in nats per image, float64."""
        mean, variance = (self._spread(part, x) for part in (self.mean, self.variance))
        snr = torch.exp(-gamma.double())
        spread = torch.log1p(snr * variance)
        square = (self.basis.forward(x.double()) - mean).square()
        return 0.5 * (spread - 1 + (1 + snr * square) / (1 + snr * variance)).flatten(1).sum(1)

    def expected_kl(self, gamma: Float[Tensor, "*n"], n_dims: int) -> Float[Tensor, "*n"]:
        r"""Returns :math:`\tfrac12 \sum_k \ln(1 + \rho S_k)` in nats, the mean over such images."""
        snr = torch.exp(-gamma.double())[..., None]
        terms = torch.log1p(snr * self.variance.flatten())
        return 0.5 * n_dims / self.variance.numel() * terms.sum(-1)

    def draw(self, noise: Float[Tensor, "b c h w"], gamma: float) -> Float[Tensor, "b c h w"]:
        """Returns the latents that standard normal noise picks from p(z_t)."""
        gammas = torch.full((len(noise),), gamma, dtype=torch.float64, device=noise.device)
        signal, std = over_image(alpha(gammas), noise), over_image(sigma(gammas), noise)
        mean, variance = (self._spread(part, noise).to(noise.dtype) for part in (self.mean, self.variance))
        scale = torch.sqrt(signal.square() * variance + std.square())
        return self.basis.inverse(signal * mean + scale * noise)

    def check_shape(self, image_shape: tuple[int, int, int]) -> None:
        """Raises NelboError unless images of a shape are whole blocks of the entry's channels."""
        channels, height, width = self.mean.shape
        if channels != image_shape[0] or image_shape[1] % height or image_shape[2] % width:
            raise NelboError(
                f"the Gaussian entry is of images of {channels} channels in blocks of {height} x {width}, "
                f"and the model's images are {image_shape}: gather it from images of that shape"
            )

    def _spread(self, part: Float[Tensor, "c bh bw"], like: Tensor) -> Float[Tensor, "c h w"]:
        return self.basis.spread(part.to(like.device), tuple(like.shape[1:]))


@dataclass(frozen=True, eq=False)
class ImageMoments:
    """The sums over images from which an entry in any basis of colours follows; those of different images add up.

    Attributes:
        n_blocks: How many blocks were summed, those of all images.
        total: The sums of the blocks' frequencies, by channel, float64, shape (c, bh, bw).
        products: The sums of the products of each two channels' frequencies, float64, shape (c, c, bh, bw).
    """

    n_blocks: int
    total: Float[Tensor, "c bh bw"]
    products: Float[Tensor, "c c bh bw"]

    @staticmethod
    def of(x: Float[Tensor, "b c h w"]) -> "ImageMoments":
        """Returns the moments of images in [-1, 1]."""
        b, c, h, w = x.shape
        basis = plain_basis((c, h, w))
        bh, bw = basis.block
        y = basis.forward(x.double()).cpu().reshape(b, c, h // bh, bh, w // bw, bw)
        products = torch.einsum("bcyizj,bdyizj->cdij", y, y)
        return ImageMoments(b * (h // bh) * (w // bw), y.sum((0, 2, 4)), products)

    def __add__(self, other: "ImageMoments") -> "ImageMoments":
        """Returns the moments of all images of both."""
        return ImageMoments(self.n_blocks + other.n_blocks, self.total + other.total, self.products + other.products)

    def colours(self) -> Float[Tensor, "c c"]:
        """Returns the principal axes of the images' colours over all frequencies but the mean."""
        products = self.products.clone()
        products[..., 0, 0] = 0
        return principal_axes(products.sum((2, 3)))

    def entry(self, colours: Float[Tensor, "c c"] | None = None, n_prior: float = 8.0) -> GaussianEntry:
        """Returns the Gaussian of the images in a basis of colour axes.

        Args:
            colours: Orthonormal colour axes; by default :meth:`colours`.
            n_prior: See :func:`shrunk`.
        """
        axes = (self.colours() if colours is None else colours).double()
        n = self.n_blocks
        mean = torch.einsum("ac,cij->aij", axes, self.total) / (n + n_prior)
        total = torch.einsum("ac,cij->aij", axes, self.total) / n
        square = torch.einsum("ac,ad,cdij->aij", axes, axes, self.products) / n
        variance = (square - 2 * mean * total + mean.square()).clamp(min=0)
        height, width = self.total.shape[1:]
        return GaussianEntry(Basis(axes, (height, width)), mean, shrunk(variance, n, n_prior))


def shrunk(variance: Float[Tensor, "c bh bw"], n: int, n_prior: float) -> Float[Tensor, "c bh bw"]:
    """Returns a spectrum drawn towards its own mean over frequencies of like radius, as if that were so many images.

    Few images make single frequencies too large and too small, which a Gaussian of them pays for on other images.
    """
    _, height, width = variance.shape
    rows, columns = torch.arange(height)[:, None] / height, torch.arange(width) / width
    ring = (torch.sqrt(rows.square() + columns.square()) * min(height, width)).round().long().expand(variance.shape)
    n_rings = int(ring.max()) + 1
    flat, index = variance.flatten(1), ring.flatten(1)
    sums = torch.zeros(len(variance), n_rings, dtype=variance.dtype).scatter_add(1, index, flat)
    counts = torch.zeros_like(sums).scatter_add(1, index, torch.ones_like(flat))
    smooth = (sums / counts.clamp(min=1)).gather(1, index).reshape(variance.shape)
    return (n * variance + n_prior * smooth) / (n + n_prior)
