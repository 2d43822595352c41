r"""Importance sampling of the diffusion term: steps drawn in proportion to what they are expected to cost.

The diffusion term is a sum over the steps of a chain, or an integral over gamma. Either is the expectation of a single
step's cost over its probability, whatever that probability is, as long as it is positive everywhere:

.. math:: \sum_i c_i = \mathbb E_{i \sim q}\Bigl[\frac{c_i}{q_i}\Bigr], \qquad
          \int \frac{e(\gamma)}2\, \mathrm d\gamma
          = \mathbb E_{\gamma \sim q}\Bigl[\frac{e(\gamma)}{2 q(\gamma)}\Bigr],
          \qquad e(\gamma) = \mathbb E\|\epsilon - \hat\epsilon\|^2 .

Where q is proportional to the cost, the ratio varies with the image and its noise alone. Even timesteps are far from
that for a DDPM, most of whose cost lies in the few steps next to the data.

A :class:`Profile` states e up to a factor. A share of the draws stays even, so that a profile that is wrong makes the
estimate noisier, never biased, and no weight exceeds 1 / ``EVEN_SHARE`` times that of an even draw. Draws map a time u
in [0, 1) through the inverse distribution function, which is monotone: evenly spread times give draws that are evenly
spread over the steps' probabilities.

References:
    Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), section 3.3, for training.
    https://arxiv.org/abs/2102.09672
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

EVEN_SHARE = 0.05
N_CELLS = 1024  # Cells of constant density, in continuous time.


@dataclass(frozen=True, eq=False)
class Profile:
    """The expected squared error of a denoiser at some noise levels, up to a factor.

    Between them its logarithm is linear in gamma, beyond them it is constant.

    Attributes:
        gammas: The levels, increasing, float64.
        errors: The squared errors there, positive, float64.
    """

    gammas: Float[Tensor, " n"]
    errors: Float[Tensor, " n"]

    def at(self, gamma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Returns the profile at any gammas."""
        gammas, logs = self.gammas.to(gamma.device), self.errors.to(gamma.device).log()
        if len(gammas) == 1:
            return logs.exp().expand(len(gamma))
        right = torch.searchsorted(gammas, gamma.contiguous()).clamp(1, len(gammas) - 1)
        share = ((gamma - gammas[right - 1]) / (gammas[right] - gammas[right - 1])).clamp(0, 1)
        return torch.lerp(logs[right - 1], logs[right], share).exp()


def step_masses(profile: Profile | None, gammas: Float[Tensor, " n"]) -> Float[Tensor, " m"]:
    r"""Returns the probabilities of the steps between neighbouring levels of a chain; even ones without a profile.

    A step's cost is taken as :math:`\mathrm{expm1}(\gamma_t - \gamma_s)\, e(\gamma_t)`, that of the posterior kernel.

    Args:
        profile: Where the cost lies.
        gammas: The chain's levels, increasing, at least two.
    """
    if profile is None:
        return torch.full((len(gammas) - 1,), 1 / (len(gammas) - 1), dtype=torch.float64, device=gammas.device)
    return _with_even_share(torch.expm1(gammas.diff()) * profile.at(gammas[1:]))


def draw_step(masses: Float[Tensor, " n"], u: Float[Tensor, " b"]) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
    """Returns the step that each time in [0, 1) draws, and its weight: one over its probability.

    Example:
        >>> draw_step(torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.4, 0.5, 0.9]))
        (tensor([0, 1, 2]), tensor([2., 4., 4.]))
    """
    ends = masses.cumsum(0)
    step = torch.searchsorted(ends, u * ends[-1], right=True).clamp(max=len(masses) - 1)
    return step, 1 / masses[step]


def draw_gamma(
    profile: Profile, gamma_0: Float[Tensor, ""], gamma_1: Float[Tensor, ""], u: Float[Tensor, " b"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Returns the gamma that each time in [0, 1) draws, and its weight: one over its density, constant on each cell.

    Args:
        profile: Where the cost lies.
        gamma_0: The cleanest level.
        gamma_1: The noisiest.
        u: The times.
    """
    width = (gamma_1 - gamma_0) / N_CELLS
    middles = gamma_0 + (torch.arange(N_CELLS, dtype=torch.float64, device=u.device) + 0.5) * width
    masses = _with_even_share(profile.at(middles))
    cell, weight = draw_step(masses, u)
    start = (masses.cumsum(0) - masses)[cell]
    within = ((u - start) * weight).clamp(0, 1)
    return gamma_0 + (cell + within) * width, weight * width


def _with_even_share(costs: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return (1 - EVEN_SHARE) * costs / costs.sum() + EVEN_SHARE / len(costs)
