r"""DPM-Solver++: multistep solvers of the probability flow, and of its stochastic version, in the predicted image.

In :math:`\lambda` the flow's solution from t to s is exact but for an integral over the prediction,

.. math:: z_s = \frac{\sigma_s}{\sigma_t} z_t
          + \sigma_s \int_{\lambda_t}^{\lambda_s} e^{\lambda}\, \hat x(z_\lambda; \lambda)\, d\lambda,

which a Taylor expansion about t turns into a sum over the derivatives of :math:`\hat x`, taken from the predictions
of earlier steps: with the last one alone it is DDIM, with two it is of second order (2M), with three of third (3M).
The first steps are of the order that their number allows, and the last, to the image itself, is the prediction.

The authors' code and those after it take half the second derivative in 3M, which leaves it at second order; here it
is whole.

References:
    DPM-Solver++ (Lu et al., 2022), eq. 8 and algorithm 2; its appendix for the stochastic version.
    https://arxiv.org/abs/2211.01095
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from nelbo.samplers.solver import Level, Noise, Predict, Solver

DataPrediction = tuple[Float[Tensor, "b c h w"], float]  # x_hat, and the lambda it was made at; the latest comes last.


@dataclass(frozen=True)
class DPMSolver(Solver):
    """The deterministic solver of an order from 1 to 3."""

    order: ClassVar[int]

    def solve(
        self, predict: Predict, z: Float[Tensor, "b c h w"], gammas: Sequence[float], noise: Noise
    ) -> Float[Tensor, "b c h w"]:
        """See :meth:`Solver.solve`."""
        past: list[DataPrediction] = []
        for t, s in pairwise(map(Level, gammas)):
            past = [*past, (predict(z, t.gamma), t.half_log_snr)][-self.order :]
            z = self.step(z, past, t, s, noise)
        return predict(z, gammas[-1])

    def step(
        self, z: Float[Tensor, "b c h w"], past: Sequence[DataPrediction], t: Level, s: Level, noise: Noise
    ) -> Float[Tensor, "b c h w"]:
        r"""Returns the latent at s from that at t.

        .. math:: z_s = \frac{\sigma_s}{\sigma_t} z_t + \alpha_s \sum_k w_k\, h^k \hat x^{(k)}
        """
        h = s.half_log_snr - t.half_log_snr
        slopes = derivatives(past, h)
        return s.sigma / t.sigma * z + s.alpha * sum(
            weight * slope for weight, slope in zip(taylor_weights(h, len(slopes)), slopes, strict=True)
        )


def taylor_weights(h: float, order: int) -> list[float]:
    r"""Returns the weights of :math:`\hat x`, :math:`h \hat x'` and :math:`h^2 \hat x''` in a step of length h.

    .. math:: \frac{1}{k!\, h^k} \int_0^h e^{u - h} u^k\, du, \qquad k = 0, 1, 2

    The second is replaced by half the first, which is the paper's choice and agrees to the order of the solver.
    """
    first = -math.expm1(-h)
    if order < 3:
        return [first, 0.5 * first][:order]
    return [first, 1 - first / h, 0.5 - (h - first) / h**2]


def derivatives(past: Sequence[DataPrediction], h: float) -> list[Float[Tensor, "b c h w"]]:
    r"""Returns :math:`\hat x`, and by divided differences :math:`h \hat x'` and :math:`h^2 \hat x''` at the last level.

    Args:
        past: The latest predictions, one to three.
        h: The length of the coming step.
    """
    (x_0, now), *older = past[::-1]
    if not older:
        return [x_0]
    (x_1, before), *oldest = older
    r_0 = (now - before) / h
    slope = (x_0 - x_1) / r_0
    if not oldest:
        return [x_0, slope]
    x_2, first = oldest[0]
    r_1 = (before - first) / h
    change = slope - (x_1 - x_2) / r_1
    return [x_0, slope + r_0 / (r_0 + r_1) * change, 2 * change / (r_0 + r_1)]


class DPMSolver1(DPMSolver):
    """First order: DDIM without fresh noise."""

    name, order = "dpm-solver++-1", 1


class DPMSolver2M(DPMSolver):
    """Second order, from two predictions."""

    name, order = "dpm-solver++", 2


class DPMSolver3M(DPMSolver):
    """Third order, from three predictions."""

    name, order = "dpm-solver++-3m", 3


class DPMSolverSDE(DPMSolver):
    r"""Second order, with fresh noise at every step.

    .. math:: z_s = \frac{\sigma_s}{\sigma_t} e^{-h} z_t + \alpha_s (1 - e^{-2h}) (\hat x + \tfrac12 h \hat x')
              + \sigma_s \sqrt{1 - e^{-2h}}\, \epsilon
    """

    name, order = "dpm-solver++-sde", 2

    def step(
        self, z: Float[Tensor, "b c h w"], past: Sequence[DataPrediction], t: Level, s: Level, noise: Noise
    ) -> Float[Tensor, "b c h w"]:
        """See :class:`DPMSolverSDE`."""
        h = s.half_log_snr - t.half_log_snr
        share = -math.expm1(-2 * h)
        slopes = derivatives(past, h)
        x_hat = slopes[0] if len(slopes) == 1 else slopes[0] + 0.5 * slopes[1]
        kept = s.sigma / t.sigma * math.exp(-h) * z
        return kept + s.alpha * share * x_hat + s.sigma * math.sqrt(share) * noise()
