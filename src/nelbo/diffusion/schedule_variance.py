r"""How noisy the estimate of the continuous-time bound is under a noise schedule, from the denoiser's errors alone.

One estimate takes an image, a time :math:`t \sim U(0, 1)` and noise, and gives
:math:`\ell = \tfrac12 \gamma'(t)\, e(\gamma(t))` with the squared error :math:`e = \|\epsilon - \hat\epsilon\|^2`. Its
mean is the same under every schedule with the same ends, its mean square is not:

.. math:: \mathbb E[\ell] = \tfrac12 \int \mathbb E[e]\, \mathrm d\gamma, \qquad
          \mathbb E[\ell^2] = \tfrac14 \int \gamma'\, \mathbb E[e^2]\, \mathrm d\gamma .

With :math:`p = 1/\gamma'` for the density of :math:`\gamma`, the second is least, by the Cauchy-Schwarz inequality,
where :math:`p \propto \sqrt{\mathbb E[e^2]}`, and is :math:`\tfrac14 (\int \sqrt{\mathbb E[e^2]}\, \mathrm d\gamma)^2`
there. So errors on a grid of gammas, measured once, give the variance under any schedule, and the least one.

References:
    Variational Diffusion Models (Kingma et al., 2021), "Variance minimization" and appendix I. https://arxiv.org/abs/2107.00630
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.diffusion.noise_schedule import NoiseSchedule, Table
from nelbo.errors import NelboError


@dataclass(frozen=True)
class Variance:
    """The variance of the estimated diffusion loss of a random image, in squared bits per dimension, and two shares.

    Attributes:
        per_example: Over images, times and noise, each drawn independently.
        between_times: The share of the mean loss at each time: what evenly spread times take away from a batch.
        between_images: The share of each image's expected loss, which no schedule changes.
    """

    per_example: float
    between_times: float
    between_images: float

    def per_batch(self, n: int) -> float:
        """Returns the variance of the mean of a batch of ``n`` with low-discrepancy times, in the limit of many."""
        return (self.per_example - self.between_times) / n


def variance(
    schedule: NoiseSchedule, gammas: Float[Tensor, " g"], errors: Float[Tensor, "n g"], n_dims: int
) -> Variance:
    """Returns the variance of the estimate under a schedule, by the trapezoidal rule over gamma.

    Args:
        schedule: The schedule, whose ends are those of the grid.
        gammas: Increasing gammas from end to end.
        errors: The squared error of each image at each gamma, each with noise of its own.
        n_dims: Dimensions of an image.

    Raises:
        NelboError: If the grid does not run from end to end of the schedule.
    """
    ends = torch.stack([schedule.gamma_0, schedule.gamma_1]).detach()
    if not torch.allclose(gammas[[0, -1]].double(), ends, rtol=0, atol=1e-6):
        raise NelboError(f"errors from gamma {gammas[0]:.4f} to {gammas[-1]:.4f} do not span the schedule's {ends}")
    errors, gammas = errors.double() / (n_dims * math.log(2)), gammas.double()
    slopes = schedule.derivative(schedule.inverse(gammas)).detach()
    means = 0.5 * torch.trapezoid(errors, gammas)
    square = 0.25 * torch.trapezoid(slopes * errors.square().mean(0), gammas)
    of_times = 0.25 * torch.trapezoid(slopes * errors.mean(0).square(), gammas)
    mean_square = means.mean().square()
    return Variance(
        per_example=(square - mean_square).item(),
        between_times=(of_times - mean_square).item(),
        between_images=means.var(correction=0).item(),
    )


def optimal_schedule(
    gammas: Float[Tensor, " g"], errors: Float[Tensor, "n g"], evenly_spread: bool = False, n_points: int = 1025
) -> Table:
    r"""Returns the schedule of least variance between two ends, :math:`1/\gamma' \propto \sqrt{\mathbb E[e^2]}`.

    Args:
        gammas: Increasing gammas from end to end.
        errors: The squared error of each image at each gamma.
        evenly_spread: Minimise the variance of a batch with evenly spread times instead, to which only the
            deviations from the mean at each time contribute: :math:`1/\gamma' \propto \sqrt{\operatorname{Var}[e]}`.
        n_points: Entries of the table.
    """
    errors, gammas = errors.double(), gammas.double()
    density = (errors.var(0, correction=0) if evenly_spread else errors.square().mean(0)).sqrt()
    times = torch.cat([torch.zeros(1, dtype=torch.float64), torch.cumulative_trapezoid(density, gammas)])
    wanted = torch.linspace(0, 1, n_points, dtype=torch.float64) * times[-1]
    cell = (torch.searchsorted(times, wanted, right=True) - 1).clamp(0, len(gammas) - 2)
    share = (wanted - times[cell]) / (times[cell + 1] - times[cell])
    return Table((gammas[cell] + share * (gammas[cell + 1] - gammas[cell])).tolist())
