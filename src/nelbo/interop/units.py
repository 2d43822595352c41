r"""The units of another program's model: what its pixels and latents are in ours. The bound is the same in both.

*Pixels.* A network is trained on pixel values v scaled to a range, :math:`y = l + (h - l)\, v / 255`, where ours are
:math:`x = 2 (v + \tfrac12) / 256 - 1`. Both are linear in v, so

.. math:: y = m + s x, \qquad m = \frac{l + h}2, \quad s = \frac{h - l}2 \cdot \frac{256}{255},

and the cells of the pixel values coincide: :math:`y \pm \tfrac{h - l}{510} \leftrightarrow x \pm \tfrac1{256}`.

*Latents.* Its latent :math:`z' = a y + b \epsilon` has a constant part, :math:`a m`, and a signal :math:`s` times as
strong as one of :math:`x`. Without the first and in units of :math:`c` it is a variance-preserving latent again,

.. math:: z' = a m + c z, \qquad z = \alpha x + \sigma \epsilon, \qquad
          \gamma = \log\frac{b^2}{s^2 a^2} = \gamma' - 2 \log s, \qquad c = b / \sigma,

with the same noise :math:`\epsilon`, so :math:`\hat\epsilon` needs no change. A divergence between densities of
:math:`z_s` does not depend on its units; every step costs what it costs in theirs. Only the prior
:math:`\mathcal N(0, I)` of the last latent stands for :math:`\mathcal N(a_T m, c_T^2 I)` in theirs: for Ho et al.'s
betas and pixels in [-1, 1] that is a variance of 1.0000003.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.diffusion.gaussian import over_image, sigma
from nelbo.errors import NelboError

PIXEL_SCALE = 256 / 255
Number = float | int  # Said for the type checks of the tests, to which an int is no float.
Pair = tuple[Number, Number]


@dataclass(frozen=True)
class Units:
    """The pixels of another program.

    Attributes:
        low: What the value 0 is to its network.
        high: What the value 255 is.
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Raises NelboError unless the range has a width."""
        if not -math.inf < self.low < self.high < math.inf:
            raise NelboError(f"pixel_range is (low, high) with low below high, such as (-1, 1), got {self.range}")

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest pixel."""
        return self.low, self.high

    @property
    def middle(self) -> float:
        """The pixel m that our 0 is."""
        return (self.low + self.high) / 2

    @property
    def scale(self) -> float:
        """How many of its units s one of ours is."""
        return (self.high - self.low) / 2 * PIXEL_SCALE

    @property
    def gamma_shift(self) -> float:
        """Its gamma less ours, 2 log s."""
        return 2 * math.log(self.scale)

    def latents(
        self, z: Float[Tensor, "b c h w"], gamma: Float[Tensor, " b"], a: Float[Tensor, " b"], b: Float[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Returns its latents z' of our latents z.

        Args:
            z: Our latents.
            gamma: Our gammas.
            a: The scale of the signal y in its latents.
            b: The scale of the noise in its latents.
        """
        theirs = over_image(b / sigma(gamma), z) * z
        return theirs + self.middle * over_image(a, z) if self.middle else theirs

    def clipped(
        self,
        eps_hat: Float[Tensor, "b c h w"],
        z: Float[Tensor, "b c h w"],
        a: Float[Tensor, " b"],
        b: Float[Tensor, " b"],
        clip: Number | None,
    ) -> Float[Tensor, "b c h w"]:
        """Returns the noise that the clipped denoised image stands for; digits are lost only where it is clipped.

        Args:
            eps_hat: The predicted noise.
            z: Its latents z'.
            a: The scale of the signal y in them.
            b: The scale of the noise in them.
            clip: How far from the middle denoised images may lie, in half ranges; None for no clipping.
        """
        if clip is None:
            return eps_hat
        a, b = over_image(a, z), over_image(b, z)
        y_hat, reach = (z - b * eps_hat) / a, clip * (self.high - self.low) / 2
        inside = y_hat.clamp(self.middle - reach, self.middle + reach)
        return torch.where(inside != y_hat, (z - a * inside) / b, eps_hat)


DEFAULT_UNITS = Units()
"""Pixels in [-1, 1] by v / 127.5 - 1, as nearly every program has them."""


def units_of(pixel_range: Any) -> Units:  # noqa: ANN401
    """Returns the units of a pixel range.

    Raises:
        NelboError: If it is no pair of finite numbers, low before high.
    """
    try:
        low, high = (float(end) for end in pixel_range)
    except (TypeError, ValueError):
        raise NelboError(f"pixel_range is (low, high), such as (-1, 1), got {pixel_range!r:.60}") from None
    return Units(low, high)
