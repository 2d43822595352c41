r"""DDIM: the step that keeps a latent's predicted noise, and replaces a share of it by fresh noise.

.. math:: z_s = \alpha_s \hat x + \sqrt{\sigma_s^2 - \varsigma^2}\, \hat\epsilon + \varsigma\, \epsilon, \qquad
          \varsigma = \eta\, \sigma_Q

with :math:`\sigma_Q` the standard deviation of the posterior :math:`q(z_s \mid z_t, x)`. At :math:`\eta = 0` it is the
Euler step of the probability flow in the time :math:`\sigma / \alpha`; at :math:`\eta = 1` the ancestral step.

References:
    Denoising Diffusion Implicit Models (Song et al., 2021), eq. 12 and 16. https://arxiv.org/abs/2010.02502
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from nelbo.errors import NelboError
from nelbo.samplers.solver import Level, Noise, Predict, Solver


@dataclass(frozen=True)
class DDIM(Solver):
    """DDIM.

    Attributes:
        eta: The share of fresh noise, from 0 (none) to 1 (ancestral sampling).
    """

    name: ClassVar[str] = "ddim"

    eta: float = 0.0

    def __post_init__(self) -> None:
        """Raises NelboError if eta is out of range."""
        if not 0 <= self.eta <= 1:
            raise NelboError(f"eta is a number from 0 (deterministic) to 1 (ancestral), got {self.eta}")

    def solve(
        self, predict: Predict, z: Float[Tensor, "b c h w"], gammas: Sequence[float], noise: Noise
    ) -> Float[Tensor, "b c h w"]:
        """See :meth:`Solver.solve`."""
        for t, s in pairwise(map(Level, gammas)):
            x_hat = predict(z, t.gamma)
            eps_hat = (z - t.alpha * x_hat) / t.sigma
            fresh = self.eta * s.sigma * math.sqrt(-math.expm1(s.gamma - t.gamma))
            z = s.alpha * x_hat + math.sqrt(s.sigma**2 - fresh**2) * eps_hat
            if fresh:
                z = z + fresh * noise()
        return predict(z, gammas[-1])
