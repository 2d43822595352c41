# ruff: noqa: ANN001, ANN201, ANN202 (numba infers the types)
"""The inner loops of the softmax over grey levels: a weight for each level near the mean, one unit for the others."""

from typing import no_type_check

import numpy as np

from nelbo.ans.loops import COUNTER, EMPTY, N_WORDS, OUTSIDE, TOTAL, peek, put, store, take
from nelbo.ans.tables import (
    DECAY,
    EXP_GRID_BITS,
    MAX_GREY_MEAN,
    MAX_SHARPNESS,
    MEAN_BITS,
    MIN_SHARPNESS,
    N_GREYS,
    PROBABILITY_BITS,
    SHARPNESS_BITS,
)
from nelbo.runtime.loops import compiled

_HALF = 1 << MEAN_BITS - 1
_EXPONENT_BITS = 22  # Fractional bits of the exponent, enough for the table and no more than an int64 holds.
_EXP_SHIFT = _EXPONENT_BITS - EXP_GRID_BITS
_SHARP_SHIFT = MEAN_BITS + SHARPNESS_BITS - _EXPONENT_BITS
_DECAYED = DECAY << MEAN_BITS + SHARPNESS_BITS


@compiled
@no_type_check
def _weight(exp, value, nearest, mean, sharpness, decayed):
    """Returns 2^30 times the weight of a grey level in the softmax over that of the nearest one, 0 where tiny."""
    excess = (value - nearest) * (((value + nearest) << MEAN_BITS) - 2 * mean)  # of the squared distance
    if excess >= decayed:
        return 0
    y = (excess * sharpness) >> _SHARP_SHIFT
    i, fraction = y >> _EXP_SHIFT, y & ((1 << _EXP_SHIFT) - 1)
    low, high = np.int64(exp[i]), np.int64(exp[i + 1])
    return low + (((high - low) * fraction) >> _EXP_SHIFT)


@compiled
@no_type_check
def _window_weights(exp, mean, sharpness, weights):
    """Fills in the weights of the grey levels that have one; returns the first, the last and the sum."""
    nearest = min(max((mean + _HALF) >> MEAN_BITS, 0), N_GREYS - 1)
    first, last, decayed = nearest, nearest, _DECAYED // sharpness
    weights[nearest] = total = np.int64(exp[0])
    for step in (-1, 1):
        value, weight = nearest + step, 1
        while 0 <= value < N_GREYS and weight > 0:
            weight = _weight(exp, value, nearest, mean, sharpness, decayed)
            if weight > 0:
                weights[value] = weight
                total += weight
                first, last = min(first, value), max(last, value)
            value += step
    return first, last, total


@compiled
@no_type_check
def _softmax_cell(weights, first, last, total, symbol):
    """Returns where a grey level begins and ends in [0, 2^24): one unit, and its share of the rest by weight."""
    if symbol < first:
        return symbol, symbol + 1
    rest = TOTAL - N_GREYS
    if symbol > last:
        return symbol + rest, symbol + rest + 1
    below = 0
    for value in range(first, symbol):
        below += weights[value]
    return symbol + below * rest // total, symbol + 1 + (below + weights[symbol]) * rest // total


@compiled
@no_type_check
def _softmax_symbol(weights, first, last, total, u):
    """Returns the grey level that holds u."""
    rest = TOTAL - N_GREYS
    if u < first:
        return u
    below = np.int64(0)
    for value in range(first, last + 1):
        below += weights[value]
        if value + 1 + below * rest // total > u:
            return value
    return u - rest


@compiled
@no_type_check
def push_grey_softmax(state, words, head, symbols, mean, sharpness, exp):
    """Pushes grey levels under softmaxes over them."""
    x, counter, n = state[head], state[COUNTER], np.int64(state[N_WORDS])
    weights = np.empty(N_GREYS, np.int64)
    for i in range(len(symbols) - 1, -1, -1):
        if not (
            MIN_SHARPNESS <= sharpness[i] <= MAX_SHARPNESS
            and -MAX_GREY_MEAN <= mean[i] <= MAX_GREY_MEAN
            and 0 <= symbols[i] < N_GREYS
        ):
            return OUTSIDE
        first, last, total = _window_weights(exp, mean[i], sharpness[i], weights)
        start, end = _softmax_cell(weights, first, last, total, symbols[i])
        x, n, counter = put(x, n, counter, words, head == 0, start, end - start, PROBABILITY_BITS)
    return store(state, head, x, n, counter)


@compiled
@no_type_check
def pop_grey_softmax(state, words, head, symbols, mean, sharpness, exp):
    """Pops grey levels under softmaxes over them."""
    x, counter, n = state[head], state[COUNTER], np.int64(state[N_WORDS])
    weights = np.empty(N_GREYS, np.int64)
    for i in range(len(symbols)):
        if not (MIN_SHARPNESS <= sharpness[i] <= MAX_SHARPNESS and -MAX_GREY_MEAN <= mean[i] <= MAX_GREY_MEAN):
            return OUTSIDE
        first, last, total = _window_weights(exp, mean[i], sharpness[i], weights)
        symbols[i] = _softmax_symbol(weights, first, last, total, peek(x, PROBABILITY_BITS))
        start, end = _softmax_cell(weights, first, last, total, symbols[i])
        x, n, counter = take(x, n, counter, words, head == 0, start, end - start, PROBABILITY_BITS)
        if n < 0:
            return EMPTY
    return store(state, head, x, n, counter)
