r"""Closed-form optimal denoisers for data of a known distribution: the answers a perfect network would give.

The best prediction of the noise in :math:`z = \alpha x + \sigma \epsilon` is its conditional mean, which is the
score of the latents' density (Tweedie's formula),

.. math:: \hat\epsilon(z; \gamma) = \mathbb E[\epsilon \mid z] = \frac{z - \alpha\, \mathbb E[x \mid z]}{\sigma}
          = -\sigma\, \nabla_z \log q_\gamma(z), \qquad q_\gamma(z) = \mathbb E_x[q(z \mid x)].

With it the reverse chain of a great many steps is the forward chain run backwards, so that the bound of a data
point is exactly its :math:`-\log p(x)`: whatever is built on denoisers can be tested against known numbers.
Everything is computed in float64 and returned in the precision of the latents.

References:
    Tweedie's Formula and Selection Bias (Efron, 2011). https://doi.org/10.1198/jasa.2011.tm11181
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nelbo.diffusion.gaussian import alpha, noise_of, sigma


class ExactDenoiser(nn.Module, ABC):
    """The conditional mean of the noise under a known distribution of images."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""

    @abstractmethod
    def forward(self, z: Float[Tensor, "b c h w"], gamma: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        r"""Returns :math:`\hat\epsilon(z; \gamma) = \mathbb E[\epsilon \mid z]`."""

    @abstractmethod
    def log_density(self, z: Float[Tensor, "b c h w"], gamma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        r"""Returns :math:`\log q_\gamma(z)` in nats, in float64."""


class GaussianDenoiser(ExactDenoiser):
    r"""The optimal denoiser of Gaussian data, :math:`x \sim \mathcal N(m, S)`.

    .. math:: \hat\epsilon(z; \gamma) = \sigma\, (\alpha^2 S + \sigma^2 I)^{-1} (z - \alpha m), \qquad
              q_\gamma(z) = \mathcal N(z;\ \alpha m,\ \alpha^2 S + \sigma^2 I)

    Args:
        mean: The mean image.
        covariance: The covariance of the flattened images, or its diagonal if it has no other entries.
    """

    mean: Tensor
    variances: Tensor
    axes: Tensor

    def __init__(self, mean: Float[Tensor, "c h w"], covariance: Float[Tensor, "d d"] | Float[Tensor, " d"]) -> None:
        super().__init__()
        matrix = torch.diag(covariance) if covariance.ndim == 1 else covariance
        variances, axes = torch.linalg.eigh(matrix.double())
        self.register_buffer("mean", mean.double())
        self.register_buffer("variances", variances.clamp(min=0))
        self.register_buffer("axes", axes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        channels, height, width = self.mean.shape
        return channels, height, width

    def forward(self, z: Float[Tensor, "b c h w"], gamma: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        r"""Returns :math:`\hat\epsilon(z; \gamma) = \mathbb E[\epsilon \mid z]`."""
        scores = self._coordinates(z, gamma) / self._latent_variances(gamma)
        return ((sigma(gamma.double())[:, None] * scores) @ self.axes.T).reshape(z.shape).to(z.dtype)

    def log_density(self, z: Float[Tensor, "b c h w"], gamma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        r"""Returns :math:`\log q_\gamma(z)` in nats; at :math:`\gamma = -\infty` that of the data themselves."""
        variances = self._latent_variances(gamma)
        return -0.5 * (self._coordinates(z, gamma).square() / variances + torch.log(math.tau * variances)).sum(1)

    def expected_error(self, gamma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        r"""Returns the expected squared error, a sum over the eigenvalues :math:`\lambda_i` of S.

        .. math:: \mathbb E\|\epsilon - \hat\epsilon\|^2
                  = \sum_i \frac{\alpha^2 \lambda_i}{\alpha^2 \lambda_i + \sigma^2}
        """
        signal = alpha(gamma.double()).square()[:, None] * self.variances
        return (signal / self._latent_variances(gamma)).sum(1)

    def diffusion_loss(self, gamma_0: Float[Tensor, ""], gamma_1: Float[Tensor, ""]) -> Float[Tensor, ""]:
        r"""Returns the expected continuous-time loss in nats, the integral of half the expected error.

        .. math:: \tfrac12 \int_{\gamma_0}^{\gamma_1} \mathbb E\|\epsilon - \hat\epsilon\|^2\, \mathrm d\gamma
                  = \tfrac12 \sum_i \log\frac{1 + \lambda_i e^{-\gamma_0}}{1 + \lambda_i e^{-\gamma_1}}
        """
        logs = [torch.log1p(self.variances * torch.exp(-gamma.double())) for gamma in (gamma_0, gamma_1)]
        return 0.5 * (logs[0] - logs[1]).sum()

    def _coordinates(self, z: Float[Tensor, "b c h w"], gamma: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Returns the centred latents along the eigenvectors of S."""
        means = alpha(gamma.double())[:, None] * self.mean.flatten()
        return (z.double().flatten(1) - means) @ self.axes

    def _latent_variances(self, gamma: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Returns the variances of the latents along the eigenvectors of S."""
        gamma = gamma.double()[:, None]
        return alpha(gamma).square() * self.variances + sigma(gamma).square()


class MixtureDenoiser(ExactDenoiser):
    r"""The optimal denoiser of data that take finitely many values :math:`x_k`, with probabilities :math:`w_k`.

    Such is any distribution of 8-bit images: :math:`\log p(x_k) = \log w_k` exactly.

    .. math:: \mathbb E[x \mid z] = \sum_k r_k x_k, \quad
              r = \mathrm{softmax}_k\Bigl(\log w_k - \frac{\|z - \alpha x_k\|^2}{2 \sigma^2}\Bigr), \qquad
              q_\gamma(z) = \sum_k w_k\, \mathcal N(z;\ \alpha x_k,\ \sigma^2 I)

    Args:
        points: The images, in [-1, 1].
        weights: Their probabilities up to a factor; None for equal ones.
    """

    points: Tensor
    log_weights: Tensor

    def __init__(self, points: Float[Tensor, "k c h w"], weights: Float[Tensor, " k"] | None = None) -> None:
        super().__init__()
        weights = torch.ones(len(points)) if weights is None else weights
        self.register_buffer("points", points.double())
        self.register_buffer("log_weights", torch.log(weights.double() / weights.double().sum()))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        _, channels, height, width = self.points.shape
        return channels, height, width

    def forward(self, z: Float[Tensor, "b c h w"], gamma: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        r"""Returns :math:`\hat\epsilon(z; \gamma) = \mathbb E[\epsilon \mid z]`."""
        responsibilities = torch.softmax(self._log_joint(z, gamma), dim=1)
        x_hat = (responsibilities @ self.points.flatten(1)).reshape(z.shape)
        return noise_of(z.double(), x_hat, gamma.double()).to(z.dtype)

    def log_density(self, z: Float[Tensor, "b c h w"], gamma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        r"""Returns :math:`\log q_\gamma(z)` in nats."""
        volume = 0.5 * z[0].numel() * torch.log(math.tau * sigma(gamma.double()).square())
        return torch.logsumexp(self._log_joint(z, gamma), dim=1) - volume

    def _log_joint(self, z: Float[Tensor, "b c h w"], gamma: Float[Tensor, " b"]) -> Float[Tensor, "b k"]:
        """Returns the log-weight of each point plus its log-likelihood given the latent, up to a constant."""
        gamma = gamma.double()[:, None, None]
        distances = (z.double().flatten(1)[:, None] - alpha(gamma) * self.points.flatten(1)).square().sum(2)
        return self.log_weights - 0.5 * distances / sigma(gamma[:, 0]).square()
