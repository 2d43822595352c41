r"""Base-2 logarithms and powers of integers in integers: two tables that every machine computes alike.

The entries come from the decimal module, whose logarithm and exponential are correctly rounded; libm's are not the
same everywhere.

.. math:: L_i = \mathrm{round}\bigl(2^{16} \log_2(1 + i/256)\bigr), \qquad
          E_i = \mathrm{round}\bigl(2^{30}\, 2^{i/256}\bigr)
"""

from decimal import Context, Decimal
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

LOG_BITS = 16  # Fractional bits of a logarithm.
POWER_BITS = 30  # Fractional bits of the powers.
GRID_BITS = 8
_DECIMAL = Context(prec=40)


@lru_cache(maxsize=1)
def log_table() -> Int64[np.ndarray, " n"]:
    """Returns the logarithms of 1 to 2 at 257 points, in units of 2^-16."""
    return np.array([_rounded(_log2(1 + Decimal(i) / (1 << GRID_BITS)), LOG_BITS) for i in _points()], np.int64)


@lru_cache(maxsize=1)
def power_table() -> Int64[np.ndarray, " n"]:
    """Returns 2 to the power of 0 to 1 at 257 points, in units of 2^-30."""
    ln_2 = _DECIMAL.ln(Decimal(2))
    powers = [_DECIMAL.exp(_DECIMAL.multiply(ln_2, Decimal(i) / (1 << GRID_BITS))) for i in _points()]
    return np.array([_rounded(power, POWER_BITS) for power in powers], np.int64)


def _points() -> range:
    return range((1 << GRID_BITS) + 1)


def _log2(value: Decimal) -> Decimal:
    return _DECIMAL.divide(_DECIMAL.ln(value), _DECIMAL.ln(Decimal(2)))


def _rounded(value: Decimal, bits: int) -> int:
    return int(_DECIMAL.to_integral_value(_DECIMAL.multiply(value, Decimal(1 << bits))))
