r"""Base-2 logarithms and powers of integers in integers: two tables that every machine computes alike.

.. math:: L_i = \mathrm{round}\bigl(2^{16} \log_2(1 + i/256)\bigr), \qquad
          E_i = \mathrm{round}\bigl(2^{30}\, 2^{i/256}\bigr)
"""

from decimal import Decimal
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from nelbo.codec.decimals import exact_decimals

LOG_BITS = 16  # Fractional bits of a logarithm.
POWER_BITS = 30  # Fractional bits of the powers.
GRID_BITS = 8
_DIGITS = 40


@lru_cache(maxsize=1)
def log_table() -> Int64[np.ndarray, " n"]:
    """Returns the logarithms of 1 to 2 at 257 points, in units of 2^-16."""
    with exact_decimals(_DIGITS):
        return _rounded([(1 + x).ln() / Decimal(2).ln() for x in _points()], LOG_BITS)


@lru_cache(maxsize=1)
def power_table() -> Int64[np.ndarray, " n"]:
    """Returns 2 to the power of 0 to 1 at 257 points, in units of 2^-30."""
    with exact_decimals(_DIGITS):
        return _rounded([(Decimal(2).ln() * x).exp() for x in _points()], POWER_BITS)


def _points() -> list[Decimal]:
    return [Decimal(i) / (1 << GRID_BITS) for i in range((1 << GRID_BITS) + 1)]


def _rounded(values: list[Decimal], bits: int) -> Int64[np.ndarray, " n"]:
    return np.array([int((value * (1 << bits)).to_integral_value()) for value in values], np.int64)
