r"""Codecs: pairs (push, pop) that undo each other on any message, bit for bit. ``CODECS`` is the table of them all.

A codec is a distribution over an array of independent symbols. To push symbols on a message costs
:math:`-\log_2 p` bits; to pop from it returns symbols, as many bits lighter, and uniform bits make a fair sample.

Every symbol has at least one of :math:`2^{24}` parts of the probability. The discretised Gaussian gives the lattice
points up to six standard deviations and more from its mean such a part each and shares the rest by mass; one further
part is an escape, after which the distance from the window follows in Elias gamma fashion: its length and sign in
6 bits, then its digits.

References:
    Lossless compression with state space models using bits back coding (Townsend and Murray, 2021), for the pairs.
    https://arxiv.org/abs/2103.10150
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer, UInt32

from nelbo.ans import loops, loops_gaussian, loops_softmax
from nelbo.ans.message import Head, Message, check_status
from nelbo.ans.tables import PROBABILITY_BITS, Tables
from nelbo.errors import NelboError


class Codec(NamedTuple):
    """A push and a pop of an array of symbols, which undo each other.

    Attributes:
        push: Changes the message; the head pushes the last symbol first.
        pop: Changes the message and returns the symbols, int64, in order.
    """

    push: Callable[[Message, Head, Integer[np.ndarray, " n"]], None]
    pop: Callable[[Message, Head], Int64[np.ndarray, " n"]]


def uniform(n_bits: Integer[np.ndarray, " n"]) -> Codec:
    """Symbol i has ``n_bits[i]`` bits, all values equally likely; at most 24 bits."""
    return _codec(loops.push_uniform, loops.pop_uniform, len(n_bits), (_int64(n_bits),))


def categorical(cumulative: UInt32[np.ndarray, "k m"], rows: Integer[np.ndarray, " n"]) -> Codec:
    """Symbol i follows row ``rows[i]`` of cumulative frequencies, see :func:`~nelbo.ans.tables.cumulative_integers`.

    Raises:
        NelboError: If a row does not increase strictly from 0 to 2^24.
    """
    steps = np.diff(cumulative.astype(np.int64), axis=1)
    if np.any(cumulative[:, 0] != 0) or np.any(cumulative[:, -1] != 1 << PROBABILITY_BITS) or np.any(steps < 1):
        raise NelboError("a row of cumulative frequencies does not increase from 0 to 2^24: rebuild the table")
    if cumulative.shape[1] < 3:
        raise NelboError("a table of a single symbol codes nothing: leave the symbol out")
    parameters = (np.ascontiguousarray(cumulative), _int64(rows))
    return _codec(loops.push_categorical, loops.pop_categorical, len(rows), parameters)


def gaussian(
    tables: Tables, mean: Integer[np.ndarray, " n"], rate: Integer[np.ndarray, " n"], has_escape: bool = True
) -> Codec:
    r"""Lattice point i, an integer k, has the mass of :math:`\mathcal N(\mu_i, \sigma_i^2)` on :math:`k \pm \tfrac12`.

    Args:
        tables: The tabulated functions.
        mean: The means in 2^-16 of a lattice step.
        rate: The rates, 2^24 over the standard deviation in lattice steps.
        has_escape: Whether points outside the window can be coded. What is sampled by popping must not be escaped.
    """
    parameters = (_int64(mean), _int64(rate), tables.cdf, int(has_escape))
    hints = (tables.quantiles,)
    return _codec(loops_gaussian.push_gaussian, loops_gaussian.pop_gaussian, len(mean), parameters, hints)


def grey_gaussian(tables: Tables, mean: Integer[np.ndarray, " n"], rate: Integer[np.ndarray, " n"]) -> Codec:
    r"""Grey level i has the mass of :math:`\mathcal N(\mu_i, \sigma_i^2)` on its cell; those of 0 and 255 are open.

    Args:
        tables: The tabulated functions.
        mean: The means in 2^-16 of a grey level.
        rate: The rates, 2^24 over the standard deviation in grey levels.
    """
    parameters = (_int64(mean), _int64(rate), tables.cdf)
    hints = (tables.quantiles,)
    return _codec(loops_gaussian.push_grey_gaussian, loops_gaussian.pop_grey_gaussian, len(mean), parameters, hints)


def grey_softmax(tables: Tables, mean: Integer[np.ndarray, " n"], sharpness: Integer[np.ndarray, " n"]) -> Codec:
    r"""Grey level i has probability :math:`\propto e^{-(v - \mu_i)^2 / (2 \tau_i^2)}`, the decoder of the VDM paper.

    Args:
        tables: The tabulated functions.
        mean: The means in 2^-16 of a grey level.
        sharpness: :math:`2^{32} / (2 \tau^2)`, with :math:`\tau` in grey levels.
    """
    parameters = (_int64(mean), _int64(sharpness), tables.exp)
    return _codec(loops_softmax.push_grey_softmax, loops_softmax.pop_grey_softmax, len(mean), parameters)


CODECS: Mapping[str, Callable[..., Codec]] = {
    "uniform": uniform,
    "categorical": categorical,
    "gaussian": gaussian,
    "grey_gaussian": grey_gaussian,
    "grey_softmax": grey_softmax,
}


def _codec(
    push_kernel: Callable[..., int],
    pop_kernel: Callable[..., int],
    n_symbols: int,
    parameters: tuple[np.ndarray | int, ...],
    hints: tuple[np.ndarray, ...] = (),
) -> Codec:
    """Makes a codec of two loops and their parameters; ``hints`` only speed up the pop."""

    def push(message: Message, head: Head, symbols: Integer[np.ndarray, " n"]) -> None:
        if len(symbols) != n_symbols:
            raise NelboError(f"{len(symbols)} symbols for a codec of {n_symbols}")
        buffer = message.buffer(loops.MAX_WORDS_PER_SYMBOL * n_symbols)
        check_status(push_kernel(message.state, buffer, int(head), _int64(symbols), *parameters))

    def pop(message: Message, head: Head) -> Int64[np.ndarray, " n"]:
        symbols = np.empty(n_symbols, np.int64)
        check_status(pop_kernel(message.state, message.buffer(0), int(head), symbols, *parameters, *hints))
        return symbols

    return Codec(push, pop)


def _int64(values: Integer[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    return np.ascontiguousarray(values, np.int64)
