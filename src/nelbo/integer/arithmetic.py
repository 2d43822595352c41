r"""The fixed-point formats of networks in integers: which power of two one unit of each integer stands for.

An integer n in a format of k fractional bits stands for :math:`n\,2^{-k}`. Integers live in float64, where they are
exact up to :math:`2^{53}`; sums of them are then exact in every order, on every processor, for every batch size.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

EXECUTOR_VERSION = 1  # Of the integer semantics: whatever changes one output bit of some network changes it.

LATENT_BITS = 18  # z, the network's input.
LATENT_LIMIT = 16 << LATENT_BITS  # |z| is clamped here: sixteen standard deviations of noise.
STEM_BITS = 14  # z and its Fourier features, as the first convolution reads them.
FEATURE_BITS = 12  # Every feature map.
TABLE_BITS = 10  # The argument of the SiLU table.
WEIGHT_BITS = 14  # Gains and offsets of norms; the largest size of a convolution's weights.
OUTPUT_BITS = 16  # What the network's last layer says.
GAIN_BITS = WEIGHT_BITS + FEATURE_BITS  # A norm's gain times one plus the conditioning's scale.
RESULT_BITS = 20  # eps_hat and x_hat.
COEFFICIENT_BITS = 24  # alpha and sigma.
PHASE_BITS = 16  # Angles, in turns: entries of the sine table.
TIME_BITS = 32  # Gamma scaled to [0, 1] for the embedding.
RATE_BITS = 20  # The embedding's frequencies, in turns per unit of that time.
EXP_BITS = 10  # The argument of the exponential's table.
EXP_VALUE_BITS = 15  # Its values.

TABLE_LOW = -16  # Below, SiLU is zero at the features' precision; exp is from -16 on too.
EXACT_FLOAT32, EXACT_FLOAT64 = 2**24, 2**53

STREAM_HEADROOM, TABLE_HEADROOM = 2.0, 1.25  # Limits over the largest value seen in calibration.

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


def shifted_limit(limit: int, in_shift: int) -> int:
    """Returns the limit of values within ±limit after the rounding that a convolution begins with."""
    return (limit + 2**in_shift - 1) >> in_shift


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


def floor_shift(x: Tensor, bits: int) -> Tensor:
    """Returns integers divided by a power of two, rounded to the nearest, halves up."""
    return (x * 0.5**bits + 0.5).floor() if bits else x


def fixed(values: Tensor, bits: int) -> Tensor:
    """Returns numbers in a format of so many fractional bits, rounded."""
    return (values * 2.0**bits).round()


LOW_INDEX = TABLE_LOW << TABLE_BITS  # The argument that the first entry of the SiLU table stands for.
SILU_LOW = 1141  # How far SiLU goes below zero, 0.27846 in the format of features.
HIGH_INDEX = -LOW_INDEX  # The last one's; from here on SiLU is the identity, at this precision.
EXP_LENGTH = -TABLE_LOW << EXP_BITS  # Entries of the exponential's table before the last, a zero.


def silu_limit(high: int) -> int:
    """Returns the limit of SiLU's values for arguments up to ``high`` in the table's format."""
    return max(high << (FEATURE_BITS - TABLE_BITS), 2**FEATURE_BITS)
