r"""The forward process: a Gaussian diffusion, as functions of :math:`\gamma = -\log \mathrm{SNR}`.

A clean image :math:`x` is seen through more and more noise,

.. math:: q(z_t \mid x) = \mathcal N(\alpha_t x,\ \sigma_t^2 I), \qquad
          \alpha_t^2 = \mathrm{sigmoid}(-\gamma_t), \quad \sigma_t^2 = \mathrm{sigmoid}(\gamma_t),

so that :math:`\alpha^2 + \sigma^2 = 1`: the variance is preserved. Any other scaling of signal and noise with the same
SNR (variance exploding, sub-VP) has the same latents up to a factor :math:`\alpha'_t / \alpha_t`, and so the same bound
and the same samples; ``tests/laws/test_specification.py`` holds this. Noise levels :math:`s < t` are joined by the
Markov transition :math:`q(z_t \mid z_s)` and, given the image, by the posterior :math:`q(z_s \mid z_t, x)`. Each is a
Gaussian whose mean is linear in what it is conditioned on and whose standard deviation depends on the two gammas alone.

Every function takes gammas of shape ``(b,)``, in float64 where precision counts, and images of shape ``(b, ...)``;
coefficients are computed in the precision of the gammas and applied in that of the images.

References:
    Variational Diffusion Models (Kingma et al., 2021), section 3.1 and appendix A. https://arxiv.org/abs/2107.00630
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def log_alpha(gamma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    r"""Returns :math:`\ln\alpha`, which keeps its digits where :math:`\alpha` is near 1."""
    return 0.5 * logsigmoid(-gamma)


def alpha(gamma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    r"""Returns the signal's scale :math:`\alpha`, :math:`\sqrt{\mathrm{sigmoid}(-\gamma)}`."""
    return torch.exp(log_alpha(gamma))


def sigma(gamma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    r"""Returns the noise's scale :math:`\sigma`, :math:`\sqrt{\mathrm{sigmoid}(\gamma)}`."""
    return torch.exp(0.5 * logsigmoid(gamma))


def over_image(coefficient: Float[Tensor, " b"], image: Float[Tensor, "b *chw"]) -> Float[Tensor, "b *ones"]:
    """Returns one coefficient per image in the image's precision, shaped to multiply it."""
    return coefficient.to(image.dtype).reshape(-1, *[1] * (image.ndim - 1))


def diffuse(
    x: Float[Tensor, "b *chw"], eps: Float[Tensor, "b *chw"], gamma: Float[Tensor, " b"]
) -> Float[Tensor, "b *chw"]:
    r"""Returns the latent :math:`z = \alpha x + \sigma \epsilon`, a draw of :math:`q(z \mid x)` (eq. 1)."""
    return over_image(alpha(gamma), x) * x + over_image(sigma(gamma), x) * eps


def denoised(
    z: Float[Tensor, "b *chw"], eps_hat: Float[Tensor, "b *chw"], gamma: Float[Tensor, " b"]
) -> Float[Tensor, "b *chw"]:
    r"""Returns the image that a predicted noise stands for, :math:`\hat x = (z - \sigma \hat\epsilon) / \alpha`."""
    return (z - over_image(sigma(gamma), z) * eps_hat) / over_image(alpha(gamma), z)


def noise_of(
    z: Float[Tensor, "b *chw"], x_hat: Float[Tensor, "b *chw"], gamma: Float[Tensor, " b"]
) -> Float[Tensor, "b *chw"]:
    r"""Returns the noise that a predicted image stands for, :math:`\hat\epsilon = (z - \alpha \hat x) / \sigma`."""
    return (z - over_image(alpha(gamma), z) * x_hat) / over_image(sigma(gamma), z)


def transition(
    gamma_s: Float[Tensor, "*b"], gamma_t: Float[Tensor, "*b"]
) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
    r"""Returns :math:`\alpha_{t|s}` and :math:`\sigma_{t|s}` of the transition from s to t.

    .. math:: q(z_t \mid z_s) = \mathcal N(\alpha_{t|s} z_s,\ \sigma_{t|s}^2 I)

    .. math:: \alpha_{t|s} = \frac{\alpha_t}{\alpha_s}, \qquad \sigma_{t|s}^2
              = \sigma_t^2 - \alpha_{t|s}^2 \sigma_s^2 = -\mathrm{expm1}(\gamma_s - \gamma_t)\, \sigma_t^2

    Args:
        gamma_s: Negative log-SNR at the cleaner end.
        gamma_t: Negative log-SNR at the noisier end, not below ``gamma_s``.
    """
    alpha_ts = torch.exp(log_alpha(gamma_t) - log_alpha(gamma_s))
    return alpha_ts, torch.sqrt(-torch.expm1(gamma_s - gamma_t)) * sigma(gamma_t)


def posterior(
    z_t: Float[Tensor, "b *chw"],
    x: Float[Tensor, "b *chw"],
    gamma_s: Float[Tensor, " b"],
    gamma_t: Float[Tensor, " b"],
) -> tuple[Float[Tensor, "b *chw"], Float[Tensor, " b"]]:
    r"""Returns the mean and the standard deviation of :math:`q(z_s \mid z_t, x)`, with :math:`s < t` (appendix A.2).

    .. math:: \mu_Q = \frac{\alpha_s}{\alpha_t} e^{\gamma_s - \gamma_t} z_t + \alpha_s c\, x, \qquad
              \sigma_Q^2 = c\, \sigma_s^2, \qquad c = -\mathrm{expm1}(\gamma_s - \gamma_t)

    Args:
        z_t: The latent at the noisier end.
        x: The clean image, in [-1, 1].
        gamma_s: Negative log-SNR at the cleaner end.
        gamma_t: Negative log-SNR at the noisier end, not below ``gamma_s``.
    """
    c = -torch.expm1(gamma_s - gamma_t)
    of_z = torch.exp(log_alpha(gamma_s) - log_alpha(gamma_t) + gamma_s - gamma_t)
    of_x = alpha(gamma_s) * c
    return over_image(of_z, z_t) * z_t + over_image(of_x, x) * x, torch.sqrt(c) * sigma(gamma_s)
