r"""What a network's output stands for: the noise, the image, or a rotation of the two.

.. math:: z = \alpha x + \sigma\epsilon, \qquad v = \alpha\epsilon - \sigma x
          \qquad\Longleftrightarrow\qquad x = \alpha z - \sigma v, \quad \epsilon = \sigma z + \alpha v

Given the latent, each of :math:`\epsilon`, :math:`x` and :math:`v` determines the others, so that all three describe
the same models in exact arithmetic. They differ in what a network has to produce and in how its errors weigh:
:math:`\|\epsilon - \hat\epsilon\|^2 = e^{-\gamma} \|x - \hat x\|^2 = \alpha^2 \|v - \hat v\|^2`. An image predicted
in float32 leaves the noise of the cleanest latents an error of about :math:`10^{-7} / \sigma`.

``PREDICTIONS`` is the table of them all, and the only place where one is turned into another.

References:
    Progressive Distillation for Fast Sampling of Diffusion Models (Salimans & Ho, 2022), section 4 and appendix D.
    https://arxiv.org/abs/2202.00512
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nelbo.diffusion.gaussian import alpha, denoised, noise_of, over_image, sigma


@dataclass(frozen=True)
class PredictionKind:
    """A way to state a prediction; each function takes (value, z, gamma) and is the other's inverse.

    Attributes:
        to_noise: Returns the noise that an output stands for.
        of_noise: Returns the output that stands for a noise.
    """

    to_noise: Callable[[Tensor, Tensor, Tensor], Tensor]
    of_noise: Callable[[Tensor, Tensor, Tensor], Tensor]


def _same(value: Tensor, z: Tensor, gamma: Tensor) -> Tensor:
    return value


def _image_to_noise(x: Tensor, z: Tensor, gamma: Tensor) -> Tensor:
    return noise_of(z, x, gamma)


def _noise_to_image(eps: Tensor, z: Tensor, gamma: Tensor) -> Tensor:
    return denoised(z, eps, gamma)


def _v_to_noise(v: Tensor, z: Tensor, gamma: Tensor) -> Tensor:
    return over_image(sigma(gamma), z) * z + over_image(alpha(gamma), z) * v


def _noise_to_v(eps: Tensor, z: Tensor, gamma: Tensor) -> Tensor:
    return (eps - over_image(sigma(gamma), z) * z) / over_image(alpha(gamma), z)


PREDICTIONS: dict[str, PredictionKind] = {
    "eps": PredictionKind(_same, _same),
    "x": PredictionKind(_image_to_noise, _noise_to_image),
    "v": PredictionKind(_v_to_noise, _noise_to_v),
}


def to_noise(
    prediction: str, output: Float[Tensor, "b *chw"], z: Float[Tensor, "b *chw"], gamma: Float[Tensor, " b"]
) -> Float[Tensor, "b *chw"]:
    r"""Returns :math:`\hat\epsilon`, the noise that a network's output stands for.

    Args:
        prediction: A key of ``PREDICTIONS``.
        output: What the network said.
        z: The latents it was asked about.
        gamma: Negative log-SNR of each.
    """
    return PREDICTIONS[prediction].to_noise(output, z, gamma)


def of_noise(
    prediction: str, eps: Float[Tensor, "b *chw"], z: Float[Tensor, "b *chw"], gamma: Float[Tensor, " b"]
) -> Float[Tensor, "b *chw"]:
    """Returns the output that stands for a noise, the inverse of :func:`to_noise`."""
    return PREDICTIONS[prediction].of_noise(eps, z, gamma)
