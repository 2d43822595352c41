r"""Dequantisation: noise that turns 8-bit values into numbers with a density, and what that costs.

A model with a density :math:`p(\tilde x)` gives a value the mass of its cell, 1/128 wide. With noise drawn within the
cell from :math:`q(\tilde x \mid x)`,

.. math:: -\log P(x) = -\log \mathbb E_q\Bigl[\frac{p(\tilde x)}{q(\tilde x \mid x)}\Bigr]
          \le -\mathbb E_q\Bigl[\log\frac{p(\tilde x)}{q(\tilde x \mid x)}\Bigr],

and the average of K ratios inside the logarithm closes the gap as K grows. ``DEQUANTISATIONS`` is the table of the
choices of q: ``uniform`` noise, and ``truncated_normal`` noise, of the cleanest latent's variance
:math:`\tau^2 = e^{\gamma_0}` cut to the cell, which is the noise that the model was trained under.

References:
    Importance Weighted Autoencoders (Burda et al., 2016). https://arxiv.org/abs/1509.00519
    A Note on the Evaluation of Generative Models (Theis et al., 2016). https://arxiv.org/abs/1511.01844
    Improved Techniques for Maximum Likelihood Estimation for Diffusion ODEs (Zheng et al., 2023), section 4.1.
    https://arxiv.org/abs/2305.03935
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.diffusion.decoder import HALF_STEP

Dequantisation = Callable[[Tensor, float], tuple[Tensor, Tensor]]


def uniform(u: Float[Tensor, "b *chw"], gamma_0: float) -> tuple[Float[Tensor, "b *chw"], Float[Tensor, "b *chw"]]:
    """Returns noise that is uniform over the cell, and the logarithm of its density.

    Args:
        u: Uniform numbers in [0, 1), float64.
        gamma_0: Gamma of the cleanest latent; this noise does not depend on it.
    """
    return (2 * u - 1) * HALF_STEP, torch.full_like(u, -math.log(2 * HALF_STEP))


def truncated_normal(
    u: Float[Tensor, "b *chw"], gamma_0: float
) -> tuple[Float[Tensor, "b *chw"], Float[Tensor, "b *chw"]]:
    r"""Returns the cleanest latent's noise cut to the cell, and the logarithm of its density.

    .. math:: q(\tilde x \mid x) = \frac{1}{Z}\, \mathcal N(\tilde x;\ x,\ \tau^2), \qquad
              Z = \mathrm{erf}\Bigl(\frac{1/256}{\sqrt 2\, \tau}\Bigr)

    Args:
        u: Uniform numbers in [0, 1), float64.
        gamma_0: Gamma of the cleanest latent.
    """
    tau = math.exp(0.5 * gamma_0)
    inside = math.erf(HALF_STEP / (math.sqrt(2) * tau))
    standard = math.sqrt(2) * torch.erfinv(inside * (2 * u - 1))
    return tau * standard, -0.5 * standard.square() - math.log(math.sqrt(math.tau) * tau * inside)


DEQUANTISATIONS: dict[str, Dequantisation] = {"uniform": uniform, "truncated_normal": truncated_normal}
