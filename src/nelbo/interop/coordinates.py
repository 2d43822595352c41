r"""The noise levels of other programs: what they call them, how they scale their latents, what their networks predict.

A latent of theirs is :math:`z' = a y + b \epsilon`, and :math:`\gamma' = \log(b^2 / a^2)` its negative log-SNR:

=========== =============================== ================================= ==================================
coordinate  what the network is given       a, b                              programs
=========== =============================== ================================= ==================================
gamma       :math:`\gamma'`                 :math:`\alpha, \sigma`            ports of VDM
logsnr      :math:`-\gamma'`                :math:`\alpha, \sigma`            progressive distillation, simple diffusion
sigma       :math:`b = e^{\gamma'/2}`       :math:`1, b` (variance exploding) EDM, EDM2, k-diffusion
t           :math:`t = b`                   :math:`1 - t, t`                  flow matching, rectified flow, SiT
=========== =============================== ================================= ==================================

with :math:`\alpha^2 = \mathrm{sigmoid}(-\gamma')` and :math:`\sigma^2 = \mathrm{sigmoid}(\gamma')`. Of the last,
:math:`\gamma' = 2 \log\frac{t}{1 - t}`: the data are at t = 0, noise at t = 1.

=========== ==================================================== ================================================
prediction  the output                                           :math:`\hat\epsilon`
=========== ==================================================== ================================================
eps         :math:`\epsilon`                                     the output
x           :math:`y`, a denoiser's D(z'; sigma)                 :math:`(z' - a \hat y) / b`
v           :math:`\alpha \epsilon - \sigma y`                   :math:`\sigma z' \alpha / a + \alpha \hat v`
flow        :math:`\epsilon - y`, the velocity :math:`dz'/dt`    :math:`(z' + a \hat u) / (a + b)`
=========== ==================================================== ================================================

References:
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022). https://arxiv.org/abs/2206.00364
    Flow Straight and Fast (Liu et al., 2023), section 2.1. https://arxiv.org/abs/2209.03003
    Progressive Distillation (Salimans & Ho, 2022), appendix D. https://arxiv.org/abs/2202.00512
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from nelbo.diffusion.gaussian import alpha, over_image, sigma

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Coordinate:
    """How a program states a noise level, and scales a latent at it; all are functions of numbers in float64.

    Attributes:
        of_gamma: Returns the coordinate of gamma'.
        to_gamma: Returns gamma' of a coordinate, its inverse.
        log_a: Returns the logarithm of the signal's scale at gamma'.
        log_b: Returns the logarithm of the noise's scale at gamma'.
        usual: The range that is meant if none is given.
        domain: Between what numbers the coordinate lies.
    """

    of_gamma: Function
    to_gamma: Function
    log_a: Function
    log_b: Function
    usual: tuple[float, float]
    domain: tuple[float, float] = (-float("inf"), float("inf"))


def _log_alpha(gamma: Tensor) -> Tensor:
    return 0.5 * logsigmoid(-gamma)


def _log_sigma(gamma: Tensor) -> Tensor:
    return 0.5 * logsigmoid(gamma)


COORDINATES: dict[str, Coordinate] = {
    "gamma": Coordinate(lambda g: g, lambda g: g, _log_alpha, _log_sigma, (-13.3, 5.0)),
    "logsnr": Coordinate(torch.neg, torch.neg, _log_alpha, _log_sigma, (-5.0, 13.3)),
    "sigma": Coordinate(
        lambda g: torch.exp(g / 2),
        lambda s: 2 * torch.log(s),
        torch.zeros_like,
        lambda g: g / 2,
        (0.002, 80.0),
        (0.0, float("inf")),
    ),
    "t": Coordinate(
        lambda g: torch.sigmoid(g / 2),
        lambda t: 2 * torch.logit(t),
        lambda g: logsigmoid(-g / 2),
        lambda g: logsigmoid(g / 2),
        (0.001, 0.999),
        (0.0, 1.0),
    ),
}


def _eps(output: Tensor, z: Tensor, gamma: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return output


def _x(output: Tensor, z: Tensor, gamma: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return (z - over_image(a, z) * output) / over_image(b, z)


def _v(output: Tensor, z: Tensor, gamma: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return over_image(sigma(gamma) * alpha(gamma) / a, z) * z + over_image(alpha(gamma), z) * output


def _flow(output: Tensor, z: Tensor, gamma: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return (z + over_image(a, z) * output) / over_image(a + b, z)


PREDICTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "eps": _eps,
    "x": _x,
    "v": _v,
    "flow": _flow,
}


def to_noise(
    prediction: str,
    output: Float[Tensor, "b c h w"],
    z: Float[Tensor, "b c h w"],
    gamma: Float[Tensor, " b"],
    a: Float[Tensor, " b"],
    b: Float[Tensor, " b"],
) -> Float[Tensor, "b c h w"]:
    """Returns the noise that an output stands for.

    Args:
        prediction: A key of ``PREDICTIONS``.
        output: What the network said.
        z: Its latents.
        gamma: Their gammas, of the signal y.
        a: The scale of y in each.
        b: The scale of the noise in each.
    """
    return PREDICTIONS[prediction](output, z, gamma, a, b)
