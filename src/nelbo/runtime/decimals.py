"""Decimal arithmetic for tables that every machine must compute alike, whatever the process has set for its own.

The decimal module's operations are correctly rounded, its logarithm and exponential too; libm's are not the same
everywhere.
"""

from contextlib import AbstractContextManager
from decimal import ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, InvalidOperation, Overflow, localcontext
from functools import lru_cache

import numpy as np
from jaxtyping import Int64


def exact_decimals(digits: int) -> AbstractContextManager[Context]:
    """Returns the context in which operators of decimals round to so many digits, half to even.

    A process may have another precision, other ways to round or traps, in its own context and in that which new ones
    are made from; so each setting is stated.

    Example:
        >>> from decimal import Decimal
        >>> with exact_decimals(5):
        ...     Decimal(2).ln()
        Decimal('0.69315')
    """
    traps = [InvalidOperation, DivisionByZero, Overflow]
    context = Context(digits, ROUND_HALF_EVEN, Emin=-999_999, Emax=999_999, capitals=1, clamp=0, flags=[], traps=traps)
    return localcontext(context)


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
