r"""The integers that take the place of :math:`\Phi` and :math:`\exp` when symbols are coded.

Libm is not the same everywhere, so the coder calls none of it. Two functions are tabulated in decimal arithmetic, which
is correctly rounded and so the same on every machine; the format names the SHA-256 of both:

.. math:: T_i = \mathrm{round}\bigl(2^{30} \, \Phi(i / 256 - 6)\bigr), \qquad
          E_i = \mathrm{round}\bigl(2^{30} \, e^{-i / 128}\bigr)

and read between grid points by linear interpolation in integers. A Gaussian's mean and scale are integers too: the
mean in :math:`2^{-16}` of a lattice step and the *rate* :math:`2^{24}\,\text{step}/\text{std}`. So one table of 12 kB
serves every phase and every scale, where a table for each pair of them would take megabytes; docs/log.md has both.
"""

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Float64, Int64, UInt32

from nelbo.errors import NelboError
from nelbo.runtime.decimals import exact_decimals

PROBABILITY_BITS = 24
MASS_BITS = 30  # Of the tables' values.
MEAN_BITS = 16  # Fractional bits of a mean, in lattice steps or grey levels.
RATE_BITS = 24  # Fractional bits of a rate, lattice steps per standard deviation turned over.
SHARPNESS_BITS = 32  # Fractional bits of a sharpness, 1 / (2 tau^2) in grey levels to the minus two.
REACH = 6  # Standard deviations on either side of the mean that the window of a Gaussian holds.
DECAY = 24  # The exponent beyond which the softmax's weights count as zero.
CDF_GRID_BITS, EXP_GRID_BITS = 8, 7  # A unit of the argument holds 2^8 and 2^7 grid points.
QUANTILE_BITS = 12  # Of the place in [0, 2^24), by which the search for a symbol begins.
N_GREYS = 256
MAX_GREY_MEAN = 1024 << MEAN_BITS
MIN_RATE, MAX_RATE = 1 << 14, 1 << 32  # 1024 to 1/256 lattice steps a standard deviation.
MIN_SHARPNESS, MAX_SHARPNESS = 1 << 16, 1 << 44  # 181 to 1/91 grey levels a standard deviation.
_DIGITS, _NEGLIGIBLE = 30, Decimal("1e-24")  # No value is within 1e-15 of where rounding turns.
_PI = Decimal("3.14159265358979323846264338327950288")


@dataclass(frozen=True, eq=False)
class Tables:
    """The tabulated functions.

    Attributes:
        cdf: The normal distribution function on [-6, 6], at 256 points a unit, times 2^30.
        exp: The exponential of minus [0, 24], at 128 points a unit, times 2^30.
    """

    cdf: UInt32[np.ndarray, " n"]
    exp: UInt32[np.ndarray, " m"]

    @cached_property
    def quantiles(self) -> Float64[np.ndarray, " q"]:
        """Where 4096 equal parts of the mass have their middles, in 2^-40 of a standard deviation times a rate.

        They only say where a search begins, so their rounding decides nothing.
        """
        middles = (np.arange(1 << QUANTILE_BITS) + 0.5) * (1 << MASS_BITS - QUANTILE_BITS)
        grid = np.searchsorted(self.cdf, middles)
        return ((grid - 0.5) / (1 << CDF_GRID_BITS) - REACH) * float(1 << RATE_BITS + MEAN_BITS)

    def digest(self) -> str:
        """Returns the SHA-256 of both tables, little-endian, one after the other."""
        return hashlib.sha256(b"".join(table.astype("<u4").tobytes() for table in (self.cdf, self.exp))).hexdigest()


@lru_cache(maxsize=1)
def build_tables() -> Tables:
    r"""Computes the tables, with :math:`\Phi(t) = \tfrac12 + \varphi(t) \sum_k t^{2k+1} / (2k + 1)!!`.

    The outermost values of the distribution function are 0 and 1, so that a window's mass is all of it.
    """
    grid = [Decimal(i) / (1 << CDF_GRID_BITS) for i in range((REACH << CDF_GRID_BITS) + 1)]
    with exact_decimals(_DIGITS):
        above = [_normal_above_mean(t) for t in grid]
        half, decay = Decimal(1) / 2, (Decimal(-1) / (1 << EXP_GRID_BITS)).exp()
        cdf = _rounded([half - p for p in above[:0:-1]] + [half + p for p in above])
        exp = _rounded([decay**i for i in range((DECAY << EXP_GRID_BITS) + 1)])
    cdf[0], cdf[-1] = 0, 1 << MASS_BITS
    return Tables(cdf, exp)


def _normal_above_mean(t: Decimal) -> Decimal:
    """Returns how much of a normal distribution lies between its mean and t standard deviations above."""
    square, term, total, k = t * t, t, t, 1
    while term > _NEGLIGIBLE:
        k += 2
        term *= square / k
        total += term
    return total * (-square / 2).exp() / (2 * _PI).sqrt()


def mean_integers(means: Float64[np.ndarray, "..."]) -> Int64[np.ndarray, "..."]:
    """Returns means as coded: in 2^-16 of a lattice step or grey level. Multiplies and rounds, so exact everywhere."""
    return np.rint(means * (1 << MEAN_BITS)).astype(np.int64)


def rate_integers(stds: Float64[np.ndarray, "..."]) -> Int64[np.ndarray, "..."]:
    """Returns the rates of standard deviations in lattice steps or grey levels. Exact everywhere: divides and rounds.

    Raises:
        NelboError: If one is not between 1/256 and 1024 lattice steps.
    """
    return _checked_integers("standard deviation", (1 << RATE_BITS) / stds, MIN_RATE, MAX_RATE)


def sharpness_integers(stds: Float64[np.ndarray, "..."]) -> Int64[np.ndarray, "..."]:
    r"""Returns :math:`2^{32} / (2 \tau^2)` for standard deviations in grey levels. Exact everywhere.

    Raises:
        NelboError: If one is not between 1/90 and 181 grey levels.
    """
    sharpness = (1 << SHARPNESS_BITS - 1) / (stds * np.abs(stds))  # A negative one stays negative, and is refused.
    return _checked_integers("standard deviation", sharpness, MIN_SHARPNESS, MAX_SHARPNESS)


def cumulative_integers(probabilities: Float64[np.ndarray, "n m"]) -> UInt32[np.ndarray, "n m1"]:
    """Returns rows of cumulative 24-bit frequencies for rows of probabilities, none of them zero.

    Like the other tables these are made once and kept; each symbol gets one unit and its share of the rest.
    """
    n_symbols = probabilities.shape[1]
    share = np.cumsum(probabilities, axis=1) / probabilities.sum(axis=1, keepdims=True)
    rest = (1 << PROBABILITY_BITS) - n_symbols
    cumulative = np.zeros((len(share), n_symbols + 1), np.uint32)
    cumulative[:, 1:] = np.floor(np.minimum(share, 1) * rest).astype(np.uint32) + np.arange(1, n_symbols + 1)
    cumulative[:, -1] = 1 << PROBABILITY_BITS
    return cumulative


def _rounded(values: list[Decimal]) -> UInt32[np.ndarray, " n"]:
    return np.array([int((value * (1 << MASS_BITS)).to_integral_value()) for value in values], np.uint32)


def _checked_integers(name: str, values: Float64[np.ndarray, "..."], low: int, high: int) -> Int64[np.ndarray, "..."]:
    integers = np.rint(values)
    if not np.all((integers >= low) & (integers <= high)):
        raise NelboError(f"a {name} is outside what the tables hold: use another lattice step or time schedule")
    return integers.astype(np.int64)
