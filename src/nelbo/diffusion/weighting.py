r"""Weighted losses: the diffusion loss with a weight on each noise level, as models that are judged by eye minimise it.

.. math:: \mathcal L_w(x) = \tfrac12 \int_{\gamma_0}^{\gamma_1} w(\gamma)\,
          \mathbb E\|\epsilon - \hat\epsilon(z_\gamma; \gamma)\|^2\, \mathrm d\gamma

With :math:`w = 1` this is the bound's diffusion term (eq. 18 and 19 of the paper, with :math:`\lambda = -\gamma`). Any
other training recipe is one, too: drawing :math:`\gamma` with density :math:`p` and minimising
:math:`f(\gamma) \|\epsilon - \hat\epsilon\|^2` is :math:`w = p f`, and with that scale the weighted loss is half the
recipe's. Where w never falls towards more noise, the weighted loss is the bound of data with noise added to them, so
its minimiser maximises a likelihood (Kingma & Gao, theorem 1); ``*_monotone`` are the smallest such weights above
their namesakes.

``WEIGHTINGS`` is the table of them all; a new one is one entry plus its formula.

References:
    Variational Diffusion Models (Kingma et al., 2021), "Weighted diffusion loss". https://arxiv.org/abs/2107.00630
    Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation (Kingma & Gao, 2023), sections 3, 4
    and appendix D. https://arxiv.org/abs/2303.00848
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from nelbo.diffusion.bound import BoundedModel, squared_error

Weight = Callable[[Tensor], Tensor]

BETA_MIN, BETA_MAX = 0.1, 20.0
MIN_SNR = 5.0
EDM_MEAN, EDM_STD, EDM_DATA_VARIANCE = -2.4, 2.4, 0.25
SIGMOID_SHIFT = 2.0


def elbo(gamma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Returns 1: the weight of the bound."""
    return torch.ones_like(gamma)


def ddpm(gamma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    r"""Returns the weight of DDPM's simple loss: the noise's error, unweighted, at times uniform under linear betas.

    With :math:`\beta(t) = \beta_0 + (\beta_1 - \beta_0) t` and :math:`B = \int_0^t \beta = \mathrm{softplus}(\gamma)`,

    .. math:: w = \frac{1}{\gamma'(t)} = \frac{\mathrm{sigmoid}(\gamma)}{\sqrt{\beta_0^2 + 2 (\beta_1 - \beta_0) B}}

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), eq. 14, https://arxiv.org/abs/2006.11239; its
        limit of many steps in Song et al. (2021), appendix C, https://arxiv.org/abs/2011.13456.
    """
    return torch.sigmoid(gamma) / torch.sqrt(BETA_MIN**2 + 2 * (BETA_MAX - BETA_MIN) * softplus(gamma))


def cosine(gamma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    r"""Returns the weight of the same loss under the cosine schedule, :math:`w = \mathrm{sech}(\gamma/2) / 2\pi`.

    References:
        Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021). https://arxiv.org/abs/2102.09672
    """
    return 1 / (math.tau * torch.cosh(gamma / 2))


def min_snr(gamma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    r"""Returns the weight of min-SNR-5: the image's error times :math:`\min(\mathrm{SNR}, 5)`, cosine schedule.

    .. math:: w = \frac{\mathrm{sech}(\gamma/2)}{2\pi} \min(1,\ 5 e^\gamma)

    References:
        Efficient Diffusion Training via Min-SNR Weighting Strategy (Hang et al., 2023). https://arxiv.org/abs/2303.09556
    """
    return cosine(gamma) * torch.clamp(MIN_SNR * torch.exp(gamma), max=1.0)


def edm(gamma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    r"""Returns the weight of EDM: :math:`\log\sigma \sim \mathcal N(-1.2, 1.2^2)`, error of its scaled network output.

    .. math:: w = \mathcal N(\gamma;\ {-2.4},\ 2.4^2)\, \frac{e^\gamma + \sigma_d^2}{\sigma_d^2}, \qquad \sigma_d = 0.5

    References:
        Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), table 1.
        https://arxiv.org/abs/2206.00364
    """
    density = torch.exp(-0.5 * ((gamma - EDM_MEAN) / EDM_STD).square()) / (math.sqrt(math.tau) * EDM_STD)
    return density * (torch.exp(gamma) + EDM_DATA_VARIANCE) / EDM_DATA_VARIANCE


def sigmoid(gamma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    r"""Returns Kingma & Gao's sigmoidal weight, :math:`w = \mathrm{sigmoid}(\gamma + 2)`, which is monotone."""
    return torch.sigmoid(gamma + SIGMOID_SHIFT)


def monotone(weight: Weight, peak: float) -> Weight:
    """Returns the running maximum over gamma of a weight that rises to a peak and then falls.

    Args:
        weight: The weight.
        peak: The gamma at which it is largest.
    """
    return lambda gamma: weight(gamma.clamp(max=peak))


WEIGHTINGS: dict[str, Weight] = {
    "elbo": elbo,
    "ddpm": ddpm,
    "ddpm_monotone": monotone(ddpm, 0.9218922),
    "cosine": cosine,
    "cosine_monotone": monotone(cosine, 0.0),
    "min_snr": min_snr,
    "min_snr_monotone": monotone(min_snr, 0.0),
    "edm": edm,
    "edm_monotone": monotone(edm, 3.3077821),
    "sigmoid": sigmoid,
}


def weighted_integrand(
    model: BoundedModel,
    x: Float[Tensor, "b *chw"],
    eps: Float[Tensor, "b *chw"],
    gamma: Float[Tensor, " b"],
    weighting: str = "elbo",
) -> Float[Tensor, " b"]:
    r"""Returns :math:`\tfrac12 w(\gamma) \|\epsilon - \hat\epsilon\|^2`, whose integral over gamma is the loss in nats.

    Divided by the density with which gamma was drawn, it is an unbiased estimate of the loss; the density of a noise
    schedule at uniform times is :math:`1/\gamma'(t)`.

    Args:
        model: The model.
        x: Images in [-1, 1].
        eps: The noise of their latents.
        gamma: Negative log-SNR of each latent, float64.
        weighting: A key of ``WEIGHTINGS``.
    """
    return 0.5 * WEIGHTINGS[weighting](gamma) * squared_error(model, x, eps, gamma)
