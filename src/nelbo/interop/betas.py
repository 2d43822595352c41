r"""The betas of a discrete-time model and the gammas that they mean, in float64.

A DDPM adds noise in N steps, :math:`q(z_i \mid z_{i-1}) = \mathcal N(\sqrt{1 - \beta_i} z_{i-1}, \beta_i I)`, so that

.. math:: \log\bar\alpha_i = \sum_{j \le i} \log(1 - \beta_j), \qquad
          \gamma_i = \log\frac{1 - \bar\alpha_i}{\bar\alpha_i} = \log\bigl(-\mathrm{expm1}(\log\bar\alpha_i)\bigr)
          - \log\bar\alpha_i .

Programs number these steps by timesteps 0 .. N - 1; node i of a chain, the clean image being node 0, is timestep i - 1.

References:
    Denoising Diffusion Probabilistic Models (Ho et al., 2020), section 2. https://arxiv.org/abs/2006.11239
    Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), section 3.2.
    https://arxiv.org/abs/2102.09672
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.errors import NelboError

BetaSchedule = Literal["linear", "cosine"]
Numbers = Sequence[float] | np.ndarray | Tensor
MAX_BETA = 0.999


def named_betas(name: BetaSchedule, n_steps: int) -> Float[Tensor, " n"]:
    r"""Returns the betas of a schedule that goes by its name.

    ``linear`` runs from 0.1/N to 20/N (Ho et al. for N = 1000, extended by Nichol & Dhariwal);
    ``cosine`` has :math:`\bar\alpha = \cos^2\frac{t + 0.008}{1.008}\frac\pi2` (eq. 17) and no beta above 0.999.

    Raises:
        NelboError: If there are fewer than two steps, or so few that a beta reaches 1.
    """
    if n_steps < 2:
        raise NelboError(f"a diffusion has at least 2 steps, got {n_steps}")
    if name == "linear":
        return checked(torch.linspace(0.1 / n_steps, 20 / n_steps, n_steps, dtype=torch.float64))
    bars = [math.cos((i / n_steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(n_steps + 1)]
    return checked([min(1 - after / before, MAX_BETA) for before, after in pairwise(bars)])


def checked(betas: Numbers) -> Float[Tensor, " n"]:
    """Returns betas in float64.

    The last may be 1: a chain that ends with no signal at all ("zero terminal SNR").

    Raises:
        NelboError: Unless there are two or more, in one row, between 0 and 1.
    """
    values = as_row(betas, "betas")
    wrong = ~((values > 0) & (values < 1))
    wrong[-1] &= values[-1] != 1
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise NelboError(f"betas must lie between 0 and 1, got {values[i].item()} at timestep {i}")
    return values


def betas_of(betas: Numbers | None, alphas_cumprod: Numbers | None) -> Tensor:
    """Returns the betas that a user gives, or whose alphas' cumulative product they give; one for the other is refused.

    Raises:
        NelboError: Unless exactly one is given, and it is what it is said to be.
    """
    if (betas is None) == (alphas_cumprod is None):
        raise NelboError("give the betas of the model, or the product of its alphas as alphas_cumprod=, one of the two")
    if betas is not None:
        return _not_alphas(checked(betas))
    bars = as_row(alphas_cumprod, "alphas_cumprod")
    falls = bool((bars.diff() < 0).all()) and bars[0] < 1 and bars[-1] >= 0
    if not falls or bars[-1] > 0.9:
        found = f"it goes from {bars[0].item():.6g} to {bars[-1].item():.6g}"
        cure = "pass betas as betas=, and 1 - sigma^2 for sigma^2"
        raise NelboError(
            f"alphas_cumprod, the product of 1 - beta, decreases strictly from below 1 to near 0; {found}: {cure}"
        )
    return checked(1 - bars / torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]]))


def _not_alphas(betas: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Refuses what is often given for betas: alphas and their product decrease; the noise's variance nears 1 early."""
    found = f"the betas go from {betas[0].item():.6g} to {betas[-1].item():.6g}"
    if len(betas) > 2 and bool((betas.diff() < 0).all()):
        cure = "pass the product as alphas_cumprod=, and 1 - alphas as betas"
        raise NelboError(f"{found} and decrease, as alphas (1 - beta) and their product do: {cure}")
    n_large = int((betas > 0.9).sum())
    if n_large > max(3, len(betas) // 20) and bool((betas.diff() > 0).all()):
        cure = "pass the product of the alphas as alphas_cumprod="
        raise NelboError(f"{found}, {n_large} of them beyond 0.9, as the noise's variance sigma^2 does: {cure}")
    return betas


def as_row(numbers: object, name: str) -> Float[Tensor, " n"]:
    """Returns two or more numbers in one row, in float64.

    Raises:
        NelboError: If they are something else.
    """
    try:
        values = torch.as_tensor(numbers, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise NelboError(f"{name} must be a row of numbers, got {numbers!r:.60}") from None
    if values.ndim != 1 or len(values) < 2:
        raise NelboError(f"{name} must be one row of two or more numbers, got shape {tuple(values.shape)}")
    return values


def gammas_of(betas: Float[Tensor, " n"]) -> Float[Tensor, " m"]:
    """Returns the finite gammas of the timesteps 0, 1, ..., increasing; a last beta of 1 has none.

    Raises:
        NelboError: If a beta is too small to move gamma.
    """
    log_bar = torch.log1p(-betas).cumsum(0)
    log_bar = log_bar[log_bar.isfinite()]
    gammas = torch.log(-torch.expm1(log_bar)) - log_bar
    stuck = (gammas.diff() <= 0).nonzero()
    if len(stuck):
        i = int(stuck[0]) + 1
        raise NelboError(f"the beta of timestep {i}, {betas[i].item()}, is too small to change the noise level")
    return gammas


def exit_std_of(betas: Float[Tensor, " n"]) -> float:
    r"""Returns the standard deviation with which a DDPM leaves its first latent for the pixels, in its own units.

    .. math:: \sqrt{\tilde\beta_2} = \sqrt{\beta_2 \frac{1 - \bar\alpha_1}{1 - \bar\alpha_2}},

    as the posterior variance of step 1 itself is 0 (Ho et al., section 3.3; their code, which Nichol & Dhariwal keep).
    """
    first = betas[0]
    return torch.sqrt(betas[1] * first / -torch.expm1(torch.log1p(-betas[:2]).sum())).item()
