r"""All that a diffusion model needs of one gamma, in exact arithmetic: the network's conditioning, alpha and sigma.

Nothing here calls libm. :math:`\alpha` and :math:`\sigma` come from the decimal module, whose exponential and square
root are correctly rounded.
"""

from dataclasses import dataclass
from decimal import Decimal

from nelbo.integer.arithmetic import COEFFICIENT_BITS
from nelbo.integer.embedding import Conditions
from nelbo.integer.program import IntegerNetwork
from nelbo.runtime.decimals import exact_decimals

_DIGITS = 50


@dataclass(frozen=True)
class Level:
    """One gamma.

    Attributes:
        gamma: Its value.
        alpha: The signal's scale in units of 2^-24.
        sigma: The noise's scale, likewise.
        conditions: For each conditioned norm, by position, its conditioning as integers in float64.
    """

    gamma: float
    alpha: int
    sigma: int
    conditions: Conditions


def make_level(network: IntegerNetwork, gamma: float) -> Level:
    """Returns the level of any gamma, the same on every machine.

    Raises:
        NelboError: If gamma is not finite, or far outside the range that the network was made for.
    """
    return Level(gamma, conditions=network.conditions(gamma), alpha=fixed_alpha(gamma), sigma=fixed_alpha(-gamma))


def exact_alpha(gamma: float) -> Decimal:
    r"""Returns :math:`\alpha = (1 + e^\gamma)^{-1/2}` to 49 digits, the same everywhere; sigma is that of -gamma.

    Example:
        >>> exact_alpha(0.0) ** 2 - Decimal("0.5") < Decimal("1e-48")
        True
    """
    with exact_decimals(_DIGITS):
        return 1 / (1 + Decimal(gamma).exp()).sqrt()


def fixed_alpha(gamma: float) -> int:
    """Returns alpha in units of 2^-24, at least 1; sigma is that of -gamma."""
    with exact_decimals(_DIGITS):
        return max(1, int((exact_alpha(gamma) * 2**COEFFICIENT_BITS).to_integral_value()))
