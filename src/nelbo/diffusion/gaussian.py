r"""The forward process: a Gaussian diffusion, as functions of :math:`\gamma = -\log \mathrm{SNR}`.

A clean image :math:`x` is seen through more and more noise,

.. math:: q(z_t \mid x) = \mathcal N(\alpha_t x,\ \sigma_t^2 I), \qquad
          \alpha_t^2 = \mathrm{sigmoid}(-\gamma_t), \quad \sigma_t^2 = \mathrm{sigmoid}(\gamma_t),

so that :math:`\alpha^2 + \sigma^2 = 1`: the variance is preserved. That is one :class:`Specification` of how signal
and noise are scaled; any other with the same SNR has the same latents up to a factor, and so the same bound and samples
(section 5 of the paper). Models, here, are all variance preserving; the functions take another specification last, and
:func:`rescaled` goes between them. Noise levels :math:`s < t` are joined by the Markov transition
:math:`q(z_t \mid z_s)` and, given the image, by the posterior :math:`q(z_s \mid z_t, x)`. Each is a Gaussian whose
mean is linear in what it is conditioned on and whose standard deviation depends on the two gammas alone.

Every function takes gammas of shape ``(b,)``, in float64 where precision counts, and images of shape ``(b, ...)``;
coefficients are computed in the precision of the gammas and applied in that of the images.

References:
    Variational Diffusion Models (Kingma et al., 2021), section 3.1 and appendix A. https://arxiv.org/abs/2107.00630
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Specification:
    r"""How signal and noise are scaled at each noise level, :math:`\log\sigma - \log\alpha = \gamma / 2`.

    Attributes:
        log_alpha: Returns the logarithm of the signal's scale at gamma.
        log_sigma: Returns the logarithm of the noise's standard deviation at gamma.
    """

    log_alpha: Callable[[Tensor], Tensor]
    log_sigma: Callable[[Tensor], Tensor]


def _sub_vp_log_alpha(gamma: Tensor) -> Tensor:
    return -torch.asinh(0.5 * torch.exp(0.5 * gamma))


VP = Specification(lambda gamma: 0.5 * logsigmoid(-gamma), lambda gamma: 0.5 * logsigmoid(gamma))
r"""Variance preserving: :math:`\alpha^2 + \sigma^2 = 1`."""

VE = Specification(torch.zeros_like, lambda gamma: 0.5 * gamma)
r"""Variance exploding: :math:`\alpha = 1`, :math:`\sigma = e^{\gamma/2}`."""

SUB_VP = Specification(_sub_vp_log_alpha, lambda gamma: _sub_vp_log_alpha(gamma) + 0.5 * gamma)
r"""Sub-VP: :math:`\sigma = 1 - \alpha^2`, so that :math:`\alpha = \exp(-\mathrm{arsinh}(e^{\gamma/2} / 2))`."""

SPECIFICATIONS: dict[str, Specification] = {"vp": VP, "ve": VE, "sub_vp": SUB_VP}
"""All of them, with the names of Song et al. (2021), section 3.4. https://arxiv.org/abs/2011.13456"""


def alpha(gamma: Float[Tensor, "*b"], spec: Specification = VP) -> Float[Tensor, "*b"]:
    r"""Returns the signal's scale :math:`\alpha`, which is :math:`\sqrt{\mathrm{sigmoid}(-\gamma)}` of VP."""
    return torch.exp(spec.log_alpha(gamma))


def sigma(gamma: Float[Tensor, "*b"], spec: Specification = VP) -> Float[Tensor, "*b"]:
    r"""Returns the noise's scale :math:`\sigma`, which is :math:`\sqrt{\mathrm{sigmoid}(\gamma)}` of VP."""
    return torch.exp(spec.log_sigma(gamma))


def rescaled(
    z: Float[Tensor, "b *chw"], gamma: Float[Tensor, " b"], source: Specification, target: Specification
) -> Float[Tensor, "b *chw"]:
    r"""Returns the latent that is to one specification what ``z`` is to another, :math:`z\, \alpha' / \alpha`."""
    if source is target:
        return z
    return over_image(torch.exp(target.log_alpha(gamma) - source.log_alpha(gamma)), z) * z


def over_image(coefficient: Float[Tensor, " b"], image: Float[Tensor, "b *chw"]) -> Float[Tensor, "b *ones"]:
    """Returns one coefficient per image in the image's precision, shaped to multiply it."""
    return coefficient.to(image.dtype).reshape(-1, *[1] * (image.ndim - 1))


def diffuse(
    x: Float[Tensor, "b *chw"], eps: Float[Tensor, "b *chw"], gamma: Float[Tensor, " b"], spec: Specification = VP
) -> Float[Tensor, "b *chw"]:
    r"""Returns the latent :math:`z = \alpha x + \sigma \epsilon`, a draw of :math:`q(z \mid x)` (eq. 1)."""
    return over_image(alpha(gamma, spec), x) * x + over_image(sigma(gamma, spec), x) * eps


def denoised(
    z: Float[Tensor, "b *chw"], eps_hat: Float[Tensor, "b *chw"], gamma: Float[Tensor, " b"], spec: Specification = VP
) -> Float[Tensor, "b *chw"]:
    r"""Returns the image that a predicted noise stands for, :math:`\hat x = (z - \sigma \hat\epsilon) / \alpha`."""
    return (z - over_image(sigma(gamma, spec), z) * eps_hat) / over_image(alpha(gamma, spec), z)


def noise_of(
    z: Float[Tensor, "b *chw"], x_hat: Float[Tensor, "b *chw"], gamma: Float[Tensor, " b"], spec: Specification = VP
) -> Float[Tensor, "b *chw"]:
    r"""Returns the noise that a predicted image stands for, :math:`\hat\epsilon = (z - \alpha \hat x) / \sigma`."""
    return (z - over_image(alpha(gamma, spec), z) * x_hat) / over_image(sigma(gamma, spec), z)


def transition(
    gamma_s: Float[Tensor, "*b"], gamma_t: Float[Tensor, "*b"], spec: Specification = VP
) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
    r"""Returns :math:`\alpha_{t|s}` and :math:`\sigma_{t|s}` of the transition from s to t.

    .. math:: q(z_t \mid z_s) = \mathcal N(\alpha_{t|s} z_s,\ \sigma_{t|s}^2 I)

    .. math:: \alpha_{t|s} = \frac{\alpha_t}{\alpha_s}, \qquad \sigma_{t|s}^2
              = \sigma_t^2 - \alpha_{t|s}^2 \sigma_s^2 = -\mathrm{expm1}(\gamma_s - \gamma_t)\, \sigma_t^2

    Args:
        gamma_s: Negative log-SNR at the cleaner end.
        gamma_t: Negative log-SNR at the noisier end, not below ``gamma_s``.
        spec: How signal and noise are scaled.
    """
    alpha_ts = torch.exp(spec.log_alpha(gamma_t) - spec.log_alpha(gamma_s))
    return alpha_ts, torch.sqrt(-torch.expm1(gamma_s - gamma_t)) * sigma(gamma_t, spec)


def posterior(
    z_t: Float[Tensor, "b *chw"],
    x: Float[Tensor, "b *chw"],
    gamma_s: Float[Tensor, " b"],
    gamma_t: Float[Tensor, " b"],
    spec: Specification = VP,
) -> tuple[Float[Tensor, "b *chw"], Float[Tensor, " b"]]:
    r"""Returns the mean and the standard deviation of :math:`q(z_s \mid z_t, x)`, with :math:`s < t` (appendix A.2).

    .. math:: \mu_Q = \frac{\alpha_s}{\alpha_t} e^{\gamma_s - \gamma_t} z_t + \alpha_s c\, x, \qquad
              \sigma_Q^2 = c\, \sigma_s^2, \qquad c = -\mathrm{expm1}(\gamma_s - \gamma_t)

    Args:
        z_t: The latent at the noisier end.
        x: The clean image, in [-1, 1].
        gamma_s: Negative log-SNR at the cleaner end.
        gamma_t: Negative log-SNR at the noisier end, not below ``gamma_s``.
        spec: How signal and noise are scaled.
    """
    c = -torch.expm1(gamma_s - gamma_t)
    of_z = torch.exp(spec.log_alpha(gamma_s) - spec.log_alpha(gamma_t) + gamma_s - gamma_t)
    of_x = alpha(gamma_s, spec) * c
    return over_image(of_z, z_t) * z_t + over_image(of_x, x) * x, torch.sqrt(c) * sigma(gamma_s, spec)
