r"""The integers that take the place of :math:`\Phi` and :math:`\exp` when symbols are coded.

Libm is not the same everywhere, so the coder calls none of it. Two functions are tabulated once, when a model is
frozen, and kept in the model file:

.. math:: T_i = \mathrm{round}\bigl(2^{30} \, \Phi(i / 256 - 6)\bigr), \qquad
          E_i = \mathrm{round}\bigl(2^{30} \, e^{-i / 128}\bigr)

and read between grid points by linear interpolation in integers. A Gaussian's mean and scale are integers too: the
mean in :math:`2^{-16}` of a lattice step and the *rate* :math:`2^{24}\,\text{step}/\text{std}`. So one table of 12 kB
serves every phase and every scale, where a table for each pair of them would take megabytes; docs/log.md has both.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64, Shaped, UInt32

from nelbo.errors import CorruptArchiveError, NelboError

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
_LENGTHS = {"cdf": (2 * REACH << CDF_GRID_BITS) + 1, "exp": (DECAY << EXP_GRID_BITS) + 1}


@dataclass(frozen=True, eq=False)
class Tables:
    """The tabulated functions, as the model file holds them.

    Attributes:
        cdf: The normal distribution function on [-6, 6], at 256 points a unit, times 2^30.
        exp: The exponential of minus [0, 24], at 128 points a unit, times 2^30.
    """

    cdf: UInt32[np.ndarray, " n"]
    exp: UInt32[np.ndarray, " m"]

    def arrays(self) -> dict[str, UInt32[np.ndarray, " _"]]:
        """Returns what the model file is to hold, by name."""
        return {"cdf": self.cdf, "exp": self.exp}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> "Tables":
        """Returns the tables that a model file holds, the inverse of :meth:`arrays`.

        Raises:
            CorruptArchiveError: If a table is missing, or is not monotone between its end values.
        """
        for name, length in _LENGTHS.items():
            table = arrays.get(name)
            if table is None or table.dtype != np.uint32 or table.shape != (length,):
                raise CorruptArchiveError(
                    f"table {name!r} is not {length} numbers of 32 bits: the model file is damaged, freeze it again"
                )
            ends = (0, 1 << MASS_BITS) if name == "cdf" else (1 << MASS_BITS, 0)
            steps = np.diff(table.astype(np.int64)) * (1 if name == "cdf" else -1)
            if (int(table[0]), int(table[-1])) != ends or steps.min() < 0:
                raise CorruptArchiveError(f"table {name!r} is not monotone: the model file is damaged, freeze it again")
        return cls(*(np.ascontiguousarray(arrays[name]) for name in _LENGTHS))

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
        return hashlib.sha256(b"".join(table.astype("<u4").tobytes() for table in self.arrays().values())).hexdigest()


def build_tables() -> Tables:
    r"""Computes the tables by ``math.erfc`` and ``math.exp``, to be kept: once a model is frozen they are never redone.

    The outermost values of the distribution function are 0 and 1, so that a window's mass is all of it.
    """
    grid = np.arange(_LENGTHS["cdf"]) / (1 << CDF_GRID_BITS) - REACH
    cdf = _rounded([0.5 * math.erfc(-t / math.sqrt(2)) for t in grid])
    cdf[0], cdf[-1] = 0, 1 << MASS_BITS
    exp = _rounded([math.exp(-i / (1 << EXP_GRID_BITS)) for i in range(_LENGTHS["exp"])])
    return Tables(cdf, exp)


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


def _rounded(values: list[float]) -> UInt32[np.ndarray, " n"]:
    return np.rint(np.array(values) * (1 << MASS_BITS)).astype(np.uint32)


def _checked_integers(name: str, values: Float64[np.ndarray, "..."], low: int, high: int) -> Int64[np.ndarray, "..."]:
    integers = np.rint(values)
    if not np.all((integers >= low) & (integers <= high)):
        raise NelboError(f"a {name} is outside what the tables hold: use another lattice step or time schedule")
    return integers.astype(np.int64)
