r"""Decoders: the probability :math:`p(x \mid z_0)` of each 8-bit value of each pixel given the cleanest latent.

Pixel values :math:`v \in \{0, \dots, 255\}` stand for points :math:`x = 2 (v + \tfrac12) / 256 - 1` of [-1, 1], one
grey level apart by 1/128. Both decoders treat dimensions as independent and look at the rescaled latent
:math:`z_0 / \alpha_0 = x + e^{\gamma_0 / 2} \epsilon`, whose noise has standard deviation :math:`e^{\gamma_0/2}`.

References:
    Variational Diffusion Models (Kingma et al., 2021), section 3.3. https://arxiv.org/abs/2107.00630
    Denoising Diffusion Probabilistic Models (Ho et al., 2020), section 3.3. https://arxiv.org/abs/2006.11239
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from nelbo.diffusion.gaussian import alpha
from nelbo.errors import NelboError

N_VALUES = 256
HALF_STEP = 1 / N_VALUES
_COARSE = 10.0  # From this gamma on, every value carries weight.


def to_unit(values: Integer[Tensor, "*chw"]) -> Float[Tensor, "*chw"]:
    r"""Returns the points :math:`x = 2 (v + \tfrac12)/256 - 1` that pixel values stand for, in float32."""
    return (values.float() + 0.5) * (2 / N_VALUES) - 1


def to_values(x: Float[Tensor, "*chw"]) -> UInt8[Tensor, "*chw"]:
    """Returns the nearest 8-bit pixel values, the inverse of :func:`to_unit`."""
    return ((x + 1) * (N_VALUES / 2) - 0.5).round().clamp(0, N_VALUES - 1).to(torch.uint8)


class Decoder(ABC):
    """p(x | z_0), independent over dimensions."""

    @abstractmethod
    def log_probabilities(self, z_0: Float[Tensor, "b *chw"], gamma_0: Float[Tensor, ""]) -> Float[Tensor, "b *chw v"]:
        """Returns the log-probability in nats of each of the 256 values of each dimension."""

    @abstractmethod
    def log_likelihood(
        self, images: UInt8[Tensor, "b *chw"], z_0: Float[Tensor, "b *chw"], gamma_0: Float[Tensor, ""]
    ) -> Float[Tensor, " b"]:
        r"""Returns :math:`\log p(x \mid z_0)` in nats, summed over dimensions in float64, without the whole table."""

    @abstractmethod
    def mode(self, z_0: Float[Tensor, "b *chw"], gamma_0: Float[Tensor, ""]) -> UInt8[Tensor, "b *chw"]:
        """Returns the most probable value of each dimension, which the paper shows as the sample."""


class Softmax(Decoder):
    r"""The paper's decoder: :math:`p(x_i \mid z_{0,i}) \propto q(z_{0,i} \mid x_i)`, normalised over the 256 values.

    .. math:: \log p(v \mid z_0) = -\tfrac12 e^{-\gamma_0} (z_0/\alpha_0 - x_v)^2 - \log\sum_{v'} \exp(\cdots)
    """

    def log_probabilities(self, z_0: Float[Tensor, "b *chw"], gamma_0: Float[Tensor, ""]) -> Float[Tensor, "b *chw v"]:
        """Returns the log-probability in nats of each of the 256 values of each dimension."""
        return torch.log_softmax(_logits(_rescaled(z_0, gamma_0)[..., None], _points(z_0), gamma_0), dim=-1)

    def log_likelihood(
        self, images: UInt8[Tensor, "b *chw"], z_0: Float[Tensor, "b *chw"], gamma_0: Float[Tensor, ""]
    ) -> Float[Tensor, " b"]:
        r"""Returns :math:`\log p(x \mid z_0)` in nats, summed over dimensions in float64.

        The normaliser is summed over the values around the nearest one alone: those further than
        :func:`window_radius` steps away do not change a digit of it.
        """
        mean = _rescaled(z_0, gamma_0)
        nearest = to_values(mean.detach()).long()
        radius = window_radius(gamma_0)
        log_sum = _log_sum([_window_logits(mean, nearest + k, gamma_0) for k in range(-radius, radius + 1)])
        picked = _logits(mean, to_unit(images), gamma_0) - log_sum
        return picked.flatten(1).sum(1, dtype=torch.float64)

    def mode(self, z_0: Float[Tensor, "b *chw"], gamma_0: Float[Tensor, ""]) -> UInt8[Tensor, "b *chw"]:
        """Returns the most probable value of each dimension: the nearest one."""
        return to_values(_rescaled(z_0, gamma_0))


class DiscretisedGaussian(Decoder):
    r"""The mass that a Gaussian around :math:`z_0/\alpha_0` puts on each value's cell; the outermost cells are open.

    .. math:: p(v \mid z_0) = \Phi\Bigl(\frac{x_v + 1/256 - m}{\tau}\Bigr)
              - \Phi\Bigl(\frac{x_v - 1/256 - m}{\tau}\Bigr), \qquad m = z_0 / \alpha_0, \quad \tau = e^{\gamma_0/2}
    """

    def log_probabilities(self, z_0: Float[Tensor, "b *chw"], gamma_0: Float[Tensor, ""]) -> Float[Tensor, "b *chw v"]:
        """Returns the log-probability in nats of each of the 256 values of each dimension."""
        mean = _rescaled(z_0, gamma_0)[..., None].double()
        return discretised_gaussian(_points(mean), mean, torch.exp(0.5 * gamma_0.double())).to(z_0.dtype)

    def log_likelihood(
        self, images: UInt8[Tensor, "b *chw"], z_0: Float[Tensor, "b *chw"], gamma_0: Float[Tensor, ""]
    ) -> Float[Tensor, " b"]:
        r"""Returns :math:`\log p(x \mid z_0)` in nats, summed over dimensions in float64."""
        mean = _rescaled(z_0, gamma_0).double()
        picked = discretised_gaussian(to_unit(images).double(), mean, torch.exp(0.5 * gamma_0.double()))
        return picked.flatten(1).sum(1)

    def mode(self, z_0: Float[Tensor, "b *chw"], gamma_0: Float[Tensor, ""]) -> UInt8[Tensor, "b *chw"]:
        """Returns the most probable value of each dimension: the nearest, or an outermost one, whose cell is open."""
        mean = _rescaled(z_0, gamma_0)
        nearest = to_values(mean)
        values = torch.stack([nearest, torch.zeros_like(nearest), torch.full_like(nearest, N_VALUES - 1)])
        mass = discretised_gaussian(to_unit(values).double(), mean.double(), torch.exp(0.5 * gamma_0.double()))
        return values.gather(0, mass.argmax(0, keepdim=True))[0]


DECODERS: dict[str, Decoder] = {"softmax": Softmax(), "discretised_gaussian": DiscretisedGaussian()}


def discretised_gaussian(
    points: Float[Tensor, "..."], mean: Float[Tensor, "..."], std: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    r"""Returns the log-mass of :math:`\mathcal N(m, \tau^2)` on the cells of some values' points, tails included.

    A cell above the mean is reflected below it, where :math:`\log\Phi` keeps its digits far into the tail.

    Args:
        points: Points that pixel values stand for, see :func:`to_unit`.
        mean: Means, broadcast against the points.
        std: Standard deviations, broadcast against the points.
    """
    upper = torch.where(points >= 1 - HALF_STEP, math.inf, (points + HALF_STEP - mean) / std)
    lower = torch.where(points <= HALF_STEP - 1, -math.inf, (points - HALF_STEP - mean) / std)
    above = lower > -upper
    upper, lower = torch.where(above, -lower, upper), torch.where(above, -upper, lower)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    return log_upper + torch.log(-torch.expm1(log_lower - log_upper))


def window_radius(gamma_0: Float[Tensor, ""]) -> int:
    r"""Returns how many grey levels around the nearest one can carry weight in the softmax.

    A value k steps from the nearest, itself at most half a step away, weighs at most
    :math:`\exp(-((k - \tfrac12)^2 - \tfrac14) / (2 \tau^2))` of it, with :math:`\tau` the noise in grey levels;
    beyond the radius that is below :math:`e^{-45}`, which all values together cannot turn into a digit of a float64.

    Raises:
        NelboError: If ``gamma_0`` is not finite.
    """
    gamma = gamma_0.item()
    if not math.isfinite(gamma):
        raise NelboError(f"gamma_0 is {gamma}: the noise schedule is damaged")
    tau = math.exp(min(gamma, _COARSE) / 2) * N_VALUES / 2
    return min(N_VALUES - 1, math.ceil(0.5 + math.sqrt(90 * tau**2 + 0.25)))


def _logits(
    mean: Float[Tensor, "..."], points: Float[Tensor, "..."], gamma_0: Float[Tensor, ""]
) -> Float[Tensor, "..."]:
    return -0.5 * ((mean - points) * torch.exp(-0.5 * gamma_0).to(mean.dtype)).square()


def _window_logits(
    mean: Float[Tensor, "b *chw"], values: Integer[Tensor, "b *chw"], gamma_0: Float[Tensor, ""]
) -> Float[Tensor, "b *chw"]:
    """Returns the logits of one value per dimension, minus infinity where there is no such value."""
    exists = (values >= 0) & (values < N_VALUES)
    return torch.where(exists, _logits(mean, to_unit(values), gamma_0), -math.inf)


def _log_sum(logits: list[Float[Tensor, "b *chw"]]) -> Float[Tensor, "b *chw"]:
    return torch.logsumexp(torch.stack(logits), dim=0)


def _rescaled(z_0: Float[Tensor, "b *chw"], gamma_0: Float[Tensor, ""]) -> Float[Tensor, "b *chw"]:
    return z_0 / alpha(gamma_0).to(z_0.dtype)


def _points(like: Tensor) -> Float[Tensor, " v"]:
    return to_unit(torch.arange(N_VALUES, device=like.device)).to(like.dtype)
