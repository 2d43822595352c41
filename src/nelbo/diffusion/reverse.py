r"""Reverse kernels :math:`p(z_s \mid z_t)`: what a model believes of a cleaner latent, and what that belief costs.

Each is a Gaussian around the posterior's mean with the denoised image in the image's place, and all differ in the
covariance alone, in units of the posterior's own variance :math:`\sigma_Q^2`:

.. math:: p(z_s \mid z_t) = \mathcal N\bigl(\mu_Q(z_t, \hat x),\ \sigma_Q^2\, U^\top \mathrm{diag}(R)\, U\bigr)

with an orthonormal basis :math:`U`. Its cost is its divergence from the truth, in which nothing but the mistake
:math:`e = U(\epsilon - \hat\epsilon)` depends on the image:

.. math:: \mathrm{KL}(q(z_s \mid z_t, x) \parallel p(z_s \mid z_t))
          = \tfrac12 \sum_k \Bigl(\tfrac1{R_k} - 1 + \ln R_k + \tfrac{r}{R_k} e_k^2\Bigr), \qquad
          r = \mathrm{expm1}(\gamma_t - \gamma_s)

A kernel is therefore one formula, :meth:`ReverseKernel.log_ratio`, for :math:`\ln R`:

============= =============================================== ==============================================
posterior     0                                               VDM; DDPM's ``fixed_small`` (beta tilde)
forward       :math:`\ln(\sigma_t^2 / \sigma_s^2)`            DDPM's ``fixed_large`` (beta)
learned-range :math:`\nu \ln(\sigma_t^2 / \sigma_s^2)`        improved DDPM, :math:`\nu` from the network
analytic      :math:`\ln(1 + r\, m)`                          Analytic-DPM, m the mean of :math:`e^2`
spectral      :math:`\ln(1 + r\, C_k)`                        here, C the mean of :math:`e^2` per coordinate
============= =============================================== ==============================================

References:
    Variational Diffusion Models (Kingma et al., 2021), eq. 7 and appendix A. https://arxiv.org/abs/2107.00630
    Denoising Diffusion Probabilistic Models (Ho et al., 2020), section 3.2. https://arxiv.org/abs/2006.11239
    Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), eq. 15. https://arxiv.org/abs/2102.09672
    Analytic-DPM (Bao et al., 2022), theorem 1. https://arxiv.org/abs/2201.06503
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from nelbo.diffusion.gaussian import denoised, over_image, posterior
from nelbo.diffusion.spectral_basis import Basis


class ReverseKernel(ABC):
    """A Gaussian p(z_s | z_t).

    Attributes:
        name: Its name among ``KERNELS``.
    """

    name: ClassVar[str]

    @abstractmethod
    def log_ratio(
        self, gamma_s: Float[Tensor, " b"], gamma_t: Float[Tensor, " b"], nu: Float[Tensor, "b *chw"] | None
    ) -> Float[Tensor, "..."]:
        r"""Returns :math:`\ln R`, the log of the variance over :math:`\sigma_Q^2`, broadcastable over the images.

        Args:
            gamma_s: Negative log-SNR at the cleaner end.
            gamma_t: Negative log-SNR at the noisier end, above ``gamma_s``.
            nu: Where the network says in its output between beta tilde (0) and beta (1) the variance lies.
        """

    def forward(self, x: Float[Tensor, "b *chw"]) -> Float[Tensor, "b *chw"]:
        """Returns images in the basis in which the kernel is diagonal: their own, unless it says otherwise."""
        return x

    def inverse(self, y: Float[Tensor, "b *chw"]) -> Float[Tensor, "b *chw"]:
        """Returns images from that basis."""
        return y

    def step_kl(
        self,
        error: Float[Tensor, "b *chw"],
        gamma_s: Float[Tensor, " b"],
        gamma_t: Float[Tensor, " b"],
        nu: Float[Tensor, "b *chw"] | None = None,
    ) -> Float[Tensor, " b"]:
        """Returns the cost in nats of the reverse step z_t -> z_s, in float64.

        Args:
            error: The denoiser's mistake, eps - eps_hat.
            gamma_s: Negative log-SNR at the cleaner end.
            gamma_t: Negative log-SNR at the noisier end, above ``gamma_s``.
            nu: See :meth:`log_ratio`.

        Example:
            >>> error, gamma_s, gamma_t = torch.ones(1, 2), torch.tensor([-1.0]), torch.tensor([0.0])
            >>> Posterior().step_kl(error, gamma_s, gamma_t)
            tensor([1.7183], dtype=torch.float64)
        """
        square = self.forward(error).double().square()
        log_ratio = self.log_ratio(gamma_s.double(), gamma_t.double(), nu).double()
        r = over_image(torch.expm1(gamma_t.double() - gamma_s.double()), square)
        cost = torch.expm1(-log_ratio) + log_ratio + r * torch.exp(-log_ratio) * square
        return 0.5 * cost.flatten(1).sum(1)

    def step(
        self,
        z_t: Float[Tensor, "b *chw"],
        eps_hat: Float[Tensor, "b *chw"],
        gamma_s: Float[Tensor, " b"],
        gamma_t: Float[Tensor, " b"],
        noise: Float[Tensor, "b *chw"],
        nu: Float[Tensor, "b *chw"] | None = None,
    ) -> Float[Tensor, "b *chw"]:
        """Returns the latent z_s ~ p(z_s | z_t) that standard normal noise in the kernel's basis picks."""
        mean, std = posterior(z_t, denoised(z_t, eps_hat, gamma_t), gamma_s, gamma_t)
        scale = torch.exp(0.5 * self.log_ratio(gamma_s, gamma_t, nu)).to(noise.dtype)
        return mean + over_image(std, mean) * self.inverse(scale * noise)


class Posterior(ReverseKernel):
    r"""The VDM kernel: the posterior with the denoised image for the image, :math:`q(z_s \mid z_t, x = \hat x)`."""

    name = "posterior"

    def log_ratio(
        self, gamma_s: Float[Tensor, " b"], gamma_t: Float[Tensor, " b"], nu: Float[Tensor, "b *chw"] | None
    ) -> Float[Tensor, "..."]:
        """Returns 0."""
        return torch.zeros((), dtype=torch.float64, device=gamma_s.device)


class Forward(ReverseKernel):
    r"""The variance of the forward step, :math:`\sigma_{t|s}^2`: DDPM's beta."""

    name = "forward"

    def log_ratio(
        self, gamma_s: Float[Tensor, " b"], gamma_t: Float[Tensor, " b"], nu: Float[Tensor, "b *chw"] | None
    ) -> Float[Tensor, "..."]:
        r"""Returns :math:`\ln(\sigma_t^2 / \sigma_s^2)`: :math:`\sigma_{t|s}^2 \sigma_s^2 = \sigma_Q^2 \sigma_t^2`."""
        return log_beta_ratio(gamma_s, gamma_t)[:, None, None, None]


class LearnedRange(ReverseKernel):
    """A variance per pixel between beta tilde and beta of this very pair of levels, as the network interpolates."""

    name = "learned-range"

    def log_ratio(
        self, gamma_s: Float[Tensor, " b"], gamma_t: Float[Tensor, " b"], nu: Float[Tensor, "b *chw"] | None
    ) -> Float[Tensor, "..."]:
        r"""Returns :math:`\nu \ln(\sigma_t^2 / \sigma_s^2)`."""
        assert nu is not None, "checked by kernel_of"
        return nu.double() * log_beta_ratio(gamma_s, gamma_t)[:, None, None, None]


@dataclass(frozen=True, eq=False)
class Analytic(ReverseKernel):
    r"""The best single variance: the mistake's expected square on top of :math:`\sigma_Q^2`.

    Attributes:
        mean_square: m, the mean of the squared mistake per dimension at gamma_t.
    """

    name = "analytic"

    mean_square: float

    def log_ratio(
        self, gamma_s: Float[Tensor, " b"], gamma_t: Float[Tensor, " b"], nu: Float[Tensor, "b *chw"] | None
    ) -> Float[Tensor, "..."]:
        r"""Returns :math:`\ln(1 + r\, m)`."""
        return torch.log1p(torch.expm1(gamma_t - gamma_s) * self.mean_square)[:, None, None, None]


@dataclass(frozen=True, eq=False)
class Spectral(ReverseKernel):
    r"""The best variance per coordinate of a fixed orthonormal basis.

    Attributes:
        basis: The basis, one for the whole chain.
        spectrum: C, the mean square of each coordinate of the mistake at gamma_t, shape (c, h, w).
    """

    name = "spectral"

    basis: Basis
    spectrum: Float[Tensor, "c h w"]

    def log_ratio(
        self, gamma_s: Float[Tensor, " b"], gamma_t: Float[Tensor, " b"], nu: Float[Tensor, "b *chw"] | None
    ) -> Float[Tensor, "..."]:
        r"""Returns :math:`\ln(1 + r\, C_k)`."""
        r = torch.expm1(gamma_t - gamma_s)[:, None, None, None]
        return torch.log1p(r * self.spectrum.to(r.device, torch.float64))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Returns images in the kernel's basis."""
        return self.basis.forward(x)

    def inverse(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Returns images from the kernel's basis."""
        return self.basis.inverse(y)


FIXED_KERNELS: dict[str, ReverseKernel] = {kernel.name: kernel for kernel in (Posterior(), Forward(), LearnedRange())}
KERNELS: tuple[str, ...] = (*FIXED_KERNELS, Analytic.name, Spectral.name)


def log_beta_ratio(gamma_s: Float[Tensor, "*b"], gamma_t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    r"""Returns :math:`\ln(\beta / \tilde\beta) = \ln(\sigma_t^2 / \sigma_s^2)` of a pair of noise levels."""
    return logsigmoid(gamma_t) - logsigmoid(gamma_s)
