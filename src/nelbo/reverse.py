r"""Reverse kernels :math:`p(z_s \mid z_t)`: what a model believes of a cleaner latent, and what that belief costs.

Each kernel is a Gaussian built from the denoiser's :math:`\hat\epsilon`. Its cost is its divergence from the truth,
:math:`\mathrm{KL}(q(z_s \mid z_t, x) \parallel p(z_s \mid z_t))`, which one statistic of the denoiser gives: the
squared error :math:`\|\epsilon - \hat\epsilon\|^2`. ``KERNELS`` is the table of them all; a new kernel is one entry.

References:
    Variational Diffusion Models (Kingma et al., 2021), eq. 7 and appendix A. https://arxiv.org/abs/2107.00630
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.gaussian import denoised, posterior


class ReverseKernel(ABC):
    """A Gaussian p(z_s | z_t) with one standard deviation per image."""

    @abstractmethod
    def mean_std(
        self,
        z_t: Float[Tensor, "b *chw"],
        eps_hat: Float[Tensor, "b *chw"],
        gamma_s: Float[Tensor, " b"],
        gamma_t: Float[Tensor, " b"],
    ) -> tuple[Float[Tensor, "b *chw"], Float[Tensor, " b"]]:
        """Returns the mean and the standard deviation of p(z_s | z_t), with s < t."""

    @abstractmethod
    def step_kl(
        self, error: Float[Tensor, " b"], gamma_s: Float[Tensor, " b"], gamma_t: Float[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Returns KL(q(z_s | z_t, x) || p(z_s | z_t)) in nats, from the squared error summed over dimensions."""


class Posterior(ReverseKernel):
    r"""The VDM kernel: the posterior with the denoised image for the image, :math:`q(z_s \mid z_t, x = \hat x)`.

    Its variance is :math:`\sigma_Q^2`, DDPM's ``fixed_small`` (beta tilde).
    """

    def mean_std(
        self,
        z_t: Float[Tensor, "b *chw"],
        eps_hat: Float[Tensor, "b *chw"],
        gamma_s: Float[Tensor, " b"],
        gamma_t: Float[Tensor, " b"],
    ) -> tuple[Float[Tensor, "b *chw"], Float[Tensor, " b"]]:
        """Returns the mean and the standard deviation of p(z_s | z_t) (eq. 7), with s < t."""
        return posterior(z_t, denoised(z_t, eps_hat, gamma_t), gamma_s, gamma_t)

    def step_kl(
        self, error: Float[Tensor, " b"], gamma_s: Float[Tensor, " b"], gamma_t: Float[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        r"""Returns the cost in nats of the reverse step :math:`z_t \to z_s`, with :math:`s < t` (eq. 14).

        .. math:: \mathrm{KL}(q(z_s \mid z_t, x) \parallel p(z_s \mid z_t))
                  = \tfrac12 \, \mathrm{expm1}(\gamma_t - \gamma_s) \, \|\epsilon - \hat\epsilon\|^2

        Args:
            error: The squared error, summed over dimensions.
            gamma_s: Negative log-SNR at the cleaner end.
            gamma_t: Negative log-SNR at the noisier end, not below ``gamma_s``.

        Example:
            >>> Posterior().step_kl(torch.tensor([2.0]), torch.tensor([-1.0]), torch.tensor([0.0]))
            tensor([1.7183])
        """
        return 0.5 * torch.expm1(gamma_t - gamma_s) * error


KERNELS: dict[str, ReverseKernel] = {"posterior": Posterior()}
