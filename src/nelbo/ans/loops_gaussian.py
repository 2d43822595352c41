# ruff: noqa: ANN001, ANN201, ANN202 (numba infers the types)
"""The inner loops of the Gaussians, on a lattice and on grey levels: a window of cells, each with a share of 2^24."""

from typing import no_type_check

import numpy as np

from nelbo.ans.loops import COUNTER, EMPTY, N_WORDS, OUTSIDE, TOTAL, peek, put, store, take
from nelbo.ans.tables import (
    CDF_GRID_BITS,
    MASS_BITS,
    MAX_GREY_MEAN,
    MAX_RATE,
    MEAN_BITS,
    MIN_RATE,
    N_GREYS,
    PROBABILITY_BITS,
    QUANTILE_BITS,
    RATE_BITS,
    REACH,
)
from nelbo.runtime.loops import compiled

_QUANTILE_SHIFT = PROBABILITY_BITS - QUANTILE_BITS
_HALF = 1 << MEAN_BITS - 1
_MAX_MEAN, _MAX_POINT = 1 << 30 + MEAN_BITS, 1 << 34
_CDF_SHIFT = RATE_BITS - CDF_GRID_BITS
_CDF_END = 2 * REACH << RATE_BITS
_LENGTH_BITS, _PIECE_BITS = 6, 16


# The window


@compiled
@no_type_check
def _mass_below(cdf, edge, rate):
    """Returns 2^30 times the normal distribution function at an edge, in 2^-16 of a step from the mean."""
    t = ((edge * rate) >> MEAN_BITS) + (REACH << RATE_BITS)
    if t <= 0:
        return 0
    if t >= _CDF_END:
        return 1 << MASS_BITS
    i, fraction = t >> _CDF_SHIFT, t & ((1 << _CDF_SHIFT) - 1)
    low, high = np.int64(cdf[i]), np.int64(cdf[i + 1])
    return low + (((high - low) * fraction) >> _CDF_SHIFT)


@compiled
@no_type_check
def _cell_start(cdf, j, n_cells, edge, rate, rest):
    """Returns where cell j of a window begins in [0, 2^24): one unit a cell, and its share of the rest by mass.

    ``edge`` is where cell 0 begins, from the mean; the outermost cells are open.
    """
    if j <= 0:
        return 0
    if j >= n_cells:
        return n_cells + rest
    return j + ((_mass_below(cdf, edge + (j << MEAN_BITS), rate) * rest) >> MASS_BITS)


@compiled
@no_type_check
def _cell_of(cdf, u, guess, n_cells, edge, rate, rest):
    """Returns the cell that holds u, where it begins and where it ends; searches outwards from a guess."""
    low = min(max(guess, 0), n_cells - 1)
    high, step = low + 1, 1
    start = _cell_start(cdf, low, n_cells, edge, rate, rest)
    while start > u:
        high, low, step = low, max(low - step, 0), 2 * step
        start = _cell_start(cdf, low, n_cells, edge, rate, rest)
    step, end = 1, _cell_start(cdf, high, n_cells, edge, rate, rest)
    while end <= u:
        low, start = high, end
        high, step = min(high + step, n_cells), 2 * step
        end = _cell_start(cdf, high, n_cells, edge, rate, rest)
    while high - low > 1:
        middle = (low + high) >> 1
        value = _cell_start(cdf, middle, n_cells, edge, rate, rest)
        if value <= u:
            low, start = middle, value
        else:
            high, end = middle, value
    return low, start, end


# Lattice points


@compiled
@no_type_check
def _is_codable(mean, rate):
    return MIN_RATE <= rate <= MAX_RATE and -_MAX_MEAN < mean < _MAX_MEAN


@compiled
@no_type_check
def push_gaussian(state, words, head, symbols, mean, rate, cdf, escape):
    """Pushes lattice points under discretised Gaussians; one outside the window is escaped, if ``escape`` is 1."""
    x, counter, n = state[head], state[COUNTER], np.int64(state[N_WORDS])
    for i in range(len(symbols) - 1, -1, -1):
        if not (_is_codable(mean[i], rate[i]) and -_MAX_POINT < symbols[i] < _MAX_POINT):
            return OUTSIDE
        centre, radius = (mean[i] + _HALF) >> MEAN_BITS, ((REACH << RATE_BITS) + rate[i] - 1) // rate[i]
        j, n_cells = symbols[i] - centre + radius, 2 * radius + 1
        if 0 <= j < n_cells:
            edge, rest = ((centre - radius) << MEAN_BITS) - _HALF - mean[i], TOTAL - escape - n_cells
            start = _cell_start(cdf, j, n_cells, edge, rate[i], rest)
            freq = _cell_start(cdf, j + 1, n_cells, edge, rate[i], rest) - start
            x, n, counter = put(x, n, counter, words, head == 0, start, freq, PROBABILITY_BITS)
        else:
            distance = abs(symbols[i] - centre) - radius
            if distance >> 32 or escape == 0:
                return OUTSIDE
            x, n, counter = _put_escaped(x, n, counter, words, head == 0, distance, symbols[i] < centre)
    return store(state, head, x, n, counter)


@compiled
@no_type_check
def pop_gaussian(state, words, head, symbols, mean, rate, cdf, escape, quantiles):
    """Pops lattice points under discretised Gaussians; ``quantiles`` only says where to look first."""
    x, counter, n = state[head], state[COUNTER], np.int64(state[N_WORDS])
    for i in range(len(symbols)):
        if not _is_codable(mean[i], rate[i]):
            return OUTSIDE
        centre, radius = (mean[i] + _HALF) >> MEAN_BITS, ((REACH << RATE_BITS) + rate[i] - 1) // rate[i]
        n_cells, u = 2 * radius + 1, peek(x, PROBABILITY_BITS)
        if u < TOTAL - escape:
            edge, rest = ((centre - radius) << MEAN_BITS) - _HALF - mean[i], TOTAL - escape - n_cells
            guess = (quantiles[u >> _QUANTILE_SHIFT] / rate[i] - edge) / (1 << MEAN_BITS)
            j, start, end = _cell_of(cdf, u, np.int64(guess), n_cells, edge, rate[i], rest)
            symbols[i] = centre - radius + j
            x, n, counter = take(x, n, counter, words, head == 0, start, end - start, PROBABILITY_BITS)
        else:
            x, n, counter, distance, negative = _take_escaped(x, n, counter, words, head == 0)
            symbols[i] = centre - radius - distance if negative else centre + radius + distance
        if n < 0:
            return EMPTY
    return store(state, head, x, n, counter)


@compiled
@no_type_check
def _put_escaped(x, n, counter, words, whiten, distance, negative):
    """Pushes a distance in [1, 2^32) from the window: its digits, its length with the sign, the escape."""
    length = 0
    while distance >> (length + 1):
        length += 1
    tail, low = distance - (1 << length), min(length, _PIECE_BITS)
    values = (tail & ((1 << low) - 1), tail >> low, 2 * length + negative, TOTAL - 1)
    bits = (low, length - low, _LENGTH_BITS, PROBABILITY_BITS)
    for k in range(4):
        if bits[k] > 0:
            x, n, counter = put(x, n, counter, words, whiten, values[k], 1, bits[k])
    return x, n, counter


@compiled
@no_type_check
def _take_escaped(x, n, counter, words, whiten):
    """Undoes :func:`_put_escaped`; the number of words is -1 where a word is missing."""
    length, negative, tail = 0, False, 0
    for k in range(4):
        low = min(length, _PIECE_BITS)
        bits = (PROBABILITY_BITS, _LENGTH_BITS, length - low, low)[k]
        if bits > 0:
            value = peek(x, bits)
            x, n, counter = take(x, n, counter, words, whiten, value, 1, bits)
            if n < 0:
                break
            if k == 1:
                length, negative = value >> 1, value & 1 == 1
            elif k > 1:
                tail = (tail << bits) | value
    return x, n, counter, (1 << length) + tail, negative


# Grey levels 0 to 255


@compiled
@no_type_check
def push_grey_gaussian(state, words, head, symbols, mean, rate, cdf):
    """Pushes grey levels under the mass that Gaussians put on their cells."""
    x, counter, n = state[head], state[COUNTER], np.int64(state[N_WORDS])
    for i in range(len(symbols) - 1, -1, -1):
        if not (
            MIN_RATE <= rate[i] <= MAX_RATE and -MAX_GREY_MEAN <= mean[i] <= MAX_GREY_MEAN and 0 <= symbols[i] < N_GREYS
        ):
            return OUTSIDE
        edge, rest = -_HALF - mean[i], TOTAL - N_GREYS
        start = _cell_start(cdf, symbols[i], N_GREYS, edge, rate[i], rest)
        freq = _cell_start(cdf, symbols[i] + 1, N_GREYS, edge, rate[i], rest) - start
        x, n, counter = put(x, n, counter, words, head == 0, start, freq, PROBABILITY_BITS)
    return store(state, head, x, n, counter)


@compiled
@no_type_check
def pop_grey_gaussian(state, words, head, symbols, mean, rate, cdf, quantiles):
    """Pops grey levels under the mass that Gaussians put on their cells."""
    x, counter, n = state[head], state[COUNTER], np.int64(state[N_WORDS])
    for i in range(len(symbols)):
        if not (MIN_RATE <= rate[i] <= MAX_RATE and -MAX_GREY_MEAN <= mean[i] <= MAX_GREY_MEAN):
            return OUTSIDE
        edge, rest, u = -_HALF - mean[i], TOTAL - N_GREYS, peek(x, PROBABILITY_BITS)
        guess = (quantiles[u >> _QUANTILE_SHIFT] / rate[i] - edge) / (1 << MEAN_BITS)
        symbols[i], start, end = _cell_of(cdf, u, np.int64(guess), N_GREYS, edge, rate[i], rest)
        x, n, counter = take(x, n, counter, words, head == 0, start, end - start, PROBABILITY_BITS)
        if n < 0:
            return EMPTY
    return store(state, head, x, n, counter)
