"""Decimal arithmetic for tables that every machine must compute alike, whatever the process has set for its own.

The decimal module's operations are correctly rounded, its logarithm and exponential too; libm's are not the same
everywhere.
"""

from contextlib import AbstractContextManager
from decimal import ROUND_HALF_EVEN, Context, DivisionByZero, InvalidOperation, Overflow, localcontext


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
