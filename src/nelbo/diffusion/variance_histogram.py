r"""The statistics of learned-range variances: one histogram for each level serves every pair of levels.

The cost of a step depends on the network's :math:`\nu` and its squared errors through
:math:`\sum_i e^{-\nu_i L}` and :math:`\sum_i e_i^2 e^{-\nu_i L}` alone, with :math:`L = \ln(\beta/\tilde\beta)` of the
pair. Both are sums over a histogram of :math:`\nu`, taken at each bin's own mean: with bins 1/256 wide and L up to 10
that is right to about :math:`(L / 256)^2 / 24 < 10^{-4}`.

References:
    Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), eq. 15. https://arxiv.org/abs/2102.09672
"""

import torch
from jaxtyping import Float
from torch import Tensor

BIN_WIDTH = 1 / 256
LOWEST, N_BINS = -0.5, 512  # Networks interpolate from 0 to 1 and stray a little.


def moments(nu: Float[Tensor, "b *chw"], square: Float[Tensor, "b *chw"]) -> Float[Tensor, "bins 4"]:
    """Returns, for each bin, the sums over all pixels of 1, nu, e^2 and e^2 nu, float64."""
    nu, square = nu.double().flatten(), square.double().flatten()
    bins = ((nu - LOWEST) / BIN_WIDTH).floor().long().clamp(0, N_BINS - 1)
    columns = (torch.ones_like(nu), nu, square, square * nu)
    return torch.stack([torch.bincount(bins, weights=column, minlength=N_BINS) for column in columns], dim=1)


def range_cost(
    moments: Float[Tensor, "bins 4"], r: Float[Tensor, " s"], log_ratio: Float[Tensor, " s"]
) -> Float[Tensor, " s"]:
    r"""Returns the expected cost in nats of steps down from one level, to each of several others.

    .. math:: \tfrac12 \sum_i \bigl(e^{-\nu_i L} - 1 + \nu_i L + r\, e_i^2\, e^{-\nu_i L}\bigr)

    Args:
        moments: Of the level, per image.
        r: expm1(gamma_t - gamma_s) of each pair.
        log_ratio: L of each pair.
    """
    count, nu, square, square_nu = (column for column in moments[moments[:, 0] > 0].T)
    level = log_ratio[:, None]
    plain = count * torch.exp(-level * nu / count) + level * nu - count
    errors = square * torch.exp(-level * square_nu / square.clamp(min=1e-300))
    return 0.5 * (plain + r[:, None] * errors).sum(1)
