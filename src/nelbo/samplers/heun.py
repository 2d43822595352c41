r"""Heun's method with EDM's churn: two network calls a step, of second order.

In :math:`\tilde x = z / \alpha` and :math:`\tilde\sigma = \sigma / \alpha = e^{\gamma/2}` the probability flow is
:math:`d\tilde x / d\tilde\sigma = (\tilde x - \hat x) / \tilde\sigma`. Each step first raises the noise by a factor
:math:`1 + \min(S_\text{churn} / N, \sqrt 2 - 1)`, takes Euler's step down, and corrects it by the slope found there.

References:
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), algorithm 2.
    https://arxiv.org/abs/2206.00364
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
class Heun(Solver):
    """Heun's method.

    Attributes:
        churn: EDM's S_churn, 0 for a deterministic solver.
    """

    name: ClassVar[str] = "heun"

    churn: float = 0.0

    def __post_init__(self) -> None:
        """Raises NelboError if the churn is negative."""
        if not 0 <= self.churn < math.inf:
            raise NelboError(f"churn is a number from 0 on (0 is deterministic), got {self.churn}")

    def n_levels(self, n_calls: int) -> int:
        """Returns how many levels so many calls pay for: two calls a step, and one that ends at the image."""
        if n_calls < 1 or n_calls % 2 == 0:
            raise NelboError(
                f"heun makes two network calls a step and one at the end: choose an odd number of steps, "
                f"such as {max(1, n_calls - 1)} or {n_calls + 1}, got {n_calls}"
            )
        return (n_calls + 1) // 2

    def check(self, is_discrete: bool) -> None:
        """Raises NelboError if churn would take a discrete-time model between its levels."""
        if is_discrete and self.churn:
            raise NelboError(
                "heun with churn needs a model of any noise level, and this one has levels of its own: use 0"
            )

    def solve(
        self, predict: Predict, z: Float[Tensor, "b c h w"], gammas: Sequence[float], noise: Noise
    ) -> Float[Tensor, "b c h w"]:
        """See :meth:`Solver.solve`."""
        factor = 1 + min(self.churn / len(gammas), math.sqrt(2) - 1)
        x = z / Level(gammas[0]).alpha
        for gamma_t, gamma_s in pairwise(gammas):
            noisy, clean = Level(gamma_t + 2 * math.log(factor)), Level(gamma_s)
            std_t, std_s = math.exp(0.5 * noisy.gamma), math.exp(0.5 * clean.gamma)
            if self.churn:
                x = x + math.sqrt(std_t**2 - math.exp(gamma_t)) * noise()
            slope = (x - predict(noisy.alpha * x, noisy.gamma)) / std_t
            ahead = x + (std_s - std_t) * slope
            corrected = (ahead - predict(clean.alpha * ahead, clean.gamma)) / std_s
            x = x + 0.5 * (std_s - std_t) * (slope + corrected)
        return predict(Level(gammas[-1]).alpha * x, gammas[-1])
