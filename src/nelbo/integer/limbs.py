r"""Integers as short digits, so that a product with many terms stays within what an arithmetic holds exactly.

An integer x with :math:`|x| \le L` is :math:`\sum_l d_l\, 2^{kl}` with balanced digits,
:math:`-2^{k-1} \le d_l < 2^{k-1}` below the top one. A sum of products of one digit each with the integers of a row w
is at most :math:`\|w\|_1 \max |d|`: while that is below :math:`2^{24}`, float32 adds it exactly in any order, and below
:math:`2^{31}` a 32-bit integer does.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nelbo.codec.exact.formats import EXACT_FLOAT32

MAX_LIMBS = 8


@dataclass(frozen=True)
class Limbs:
    """A way to split integers.

    Attributes:
        count: Digits of each integer.
        bits: k, the logarithm of the base.
    """

    count: int
    bits: int

    def largest(self, limit: int) -> int:
        """Returns the largest size of a digit of an integer within ±limit."""
        if self.count == 1:
            return limit
        return max(2 ** (self.bits - 1), (limit >> self.bits * (self.count - 1)) + 1)


@dataclass(frozen=True)
class Arithmetic:
    """What convolutions multiply in.

    Attributes:
        digit: The largest factor.
        total: The largest sum of products.
    """

    digit: int
    total: int

    def largest_norm(self, limit: int, limbs: Limbs) -> int:
        """Returns the L1 norm of a row up to which products with every digit are exact; 0 if a digit is too large."""
        largest = max(1, limbs.largest(limit))
        return self.total // largest if largest <= self.digit else 0


FLOAT32 = Arithmetic(EXACT_FLOAT32 - 1, EXACT_FLOAT32 - 1)
INT16 = Arithmetic(2**15 - 1, 2**31 - 1)


def best_limbs(limit: int, count: int) -> Limbs:
    """Returns the split into ``count`` digits whose largest digit is smallest, for integers within ±limit."""
    return min((Limbs(count, bits) for bits in range(1, 25)), key=lambda limbs: limbs.largest(limit))


def fewest_limbs(limit: int, row_norm: int, arithmetic: Arithmetic) -> Limbs | None:
    """Returns the split with the fewest digits that keeps products with a row of given L1 norm exact.

    None if there is none of at most ``MAX_LIMBS``.
    """
    splits = (best_limbs(limit, count) for count in range(1, MAX_LIMBS + 1))
    return next((limbs for limbs in splits if row_norm <= arithmetic.largest_norm(limit, limbs)), None)


def split(x: Float[Tensor, "*n"], limbs: Limbs) -> list[Float[Tensor, "*n"]]:
    """Returns the digits of integers, lowest first; the inverse of :func:`join`."""
    digits = []
    for _ in range(limbs.count - 1):
        above = (x * 0.5**limbs.bits + 0.5).floor()
        digits.append(x - above * 2.0**limbs.bits)
        x = above
    return [*digits, x]


def join(digits: list[Float[Tensor, "*n"]], limbs: Limbs) -> Float[Tensor, "*n"]:
    """Returns the integers, or the products, that digits stand for, in float64."""
    x = digits[-1].double()
    for digit in digits[-2::-1]:
        x = x * 2.0**limbs.bits + digit
    return x
