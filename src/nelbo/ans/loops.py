# ruff: noqa: ANN001, ANN201 (numba infers the types)
"""The inner loops of the entropy coder, compiled by numba: integers only, so that every machine does the same.

Each pair ``push_*`` and ``pop_*`` are mirror images. Both take the message's state (two heads, counter, number of
words) and its buffer of words, and work on a whole array of symbols: pops run forwards and pushes backwards, so that
a pop undoes a push. They return a status and leave the state alone unless it is ``OK``. Here are the steps that all
of them share and the codecs of explicit probabilities; the others have a file each.

Numba keeps what it compiled in ``__pycache__`` and notices changes of the file that a function is in, not of those it
imports: after a change of this file or of ``tables.py``, run ``make clean``.
"""

from typing import no_type_check

import numpy as np

from nelbo.ans.tables import PROBABILITY_BITS
from nelbo.runtime.loops import compiled

OK, EMPTY, OUTSIDE = 0, 1, 2
COUNTER, N_WORDS = 2, 3  # Places in the state, after the two heads.
MAX_WORDS_PER_SYMBOL = 4  # An escaped symbol: the escape, its length with the sign, two pieces.
TOTAL = 1 << PROBABILITY_BITS

_U = np.uint64
_1, _27, _30, _31, _32, _64 = _U(1), _U(27), _U(30), _U(31), _U(32), _U(64)
_LOW_WORD, _LOWEST_HEAD = _U(0xFFFFFFFF), _U(1 << 32)
_GOLDEN, _MIX_1, _MIX_2 = _U(0x9E3779B97F4A7C15), _U(0xBF58476D1CE4E5B9), _U(0x94D049BB133111EB)


# One symbol


@compiled
@no_type_check
def keystream(i):
    """Returns word i of the keystream: the upper half of the output of splitmix64 for that counter."""
    z = (i + _1) * _GOLDEN
    z = (z ^ (z >> _30)) * _MIX_1
    z = (z ^ (z >> _27)) * _MIX_2
    return (z ^ (z >> _31)) >> _32


@compiled
@no_type_check
def put(x, n, counter, words, whiten, start, freq, bits):
    """Pushes a symbol of ``freq`` in 2^bits that begins at ``start``; returns the head, number of words, counter."""
    start, freq, bits = _U(start), _U(freq), _U(bits)
    if x >= freq << (_64 - bits):
        word = x & _LOW_WORD
        if whiten:
            counter -= _1
            word ^= keystream(counter)
        words[n] = np.uint32(word)
        n += 1
        x >>= _32
    quotient = x // freq
    return (quotient << bits) + start + (x - quotient * freq), n, counter


@compiled
@no_type_check
def take(x, n, counter, words, whiten, start, freq, bits):
    """Undoes :func:`put`; the number of words is -1 where a word is missing."""
    start, freq, bits = _U(start), _U(freq), _U(bits)
    x = freq * (x >> bits) + (x & ((_1 << bits) - _1)) - start
    if x < _LOWEST_HEAD:
        if n == 0:
            return x, -1, counter
        n -= 1
        word = _U(words[n])
        if whiten:
            word ^= keystream(counter)
            counter += _1
        x = (x << _32) | word
    return x, n, counter


@compiled
@no_type_check
def peek(x, bits):
    """Returns the lowest bits of a head: where in its symbol's share they lie decides the symbol."""
    return np.int64(x & ((_1 << _U(bits)) - _1))


@compiled
@no_type_check
def store(state, head, x, n, counter):
    """Writes a kernel's result to the message, when all has gone well."""
    state[head], state[COUNTER], state[N_WORDS] = x, counter, _U(n)
    return OK


# Uniform symbols below 2^bits


@compiled
@no_type_check
def push_uniform(state, words, head, symbols, bits):
    """Pushes symbols of 0 to 24 bits, each below 2^bits."""
    x, counter, n = state[head], state[COUNTER], np.int64(state[N_WORDS])
    for i in range(len(symbols) - 1, -1, -1):
        if not (0 <= bits[i] <= PROBABILITY_BITS and 0 <= symbols[i] < 1 << bits[i]):
            return OUTSIDE
        if bits[i] > 0:
            x, n, counter = put(x, n, counter, words, head == 0, symbols[i], 1, bits[i])
    return store(state, head, x, n, counter)


@compiled
@no_type_check
def pop_uniform(state, words, head, symbols, bits):
    """Pops symbols of 0 to 24 bits."""
    x, counter, n = state[head], state[COUNTER], np.int64(state[N_WORDS])
    for i in range(len(symbols)):
        if not 0 <= bits[i] <= PROBABILITY_BITS:
            return OUTSIDE
        symbols[i] = peek(x, bits[i])
        if bits[i] > 0:
            x, n, counter = take(x, n, counter, words, head == 0, symbols[i], 1, bits[i])
            if n < 0:
                return EMPTY
    return store(state, head, x, n, counter)


# Symbols of explicit tables


@compiled
@no_type_check
def push_categorical(state, words, head, symbols, cumulative, rows):
    """Pushes symbols under rows of cumulative frequencies, from 0 to 2^24 and strictly increasing."""
    x, counter, n = state[head], state[COUNTER], np.int64(state[N_WORDS])
    for i in range(len(symbols) - 1, -1, -1):
        if not (0 <= rows[i] < cumulative.shape[0] and 0 <= symbols[i] < cumulative.shape[1] - 1):
            return OUTSIDE
        start, end = cumulative[rows[i], symbols[i]], cumulative[rows[i], symbols[i] + 1]
        x, n, counter = put(x, n, counter, words, head == 0, start, end - start, PROBABILITY_BITS)
    return store(state, head, x, n, counter)


@compiled
@no_type_check
def pop_categorical(state, words, head, symbols, cumulative, rows):
    """Pops symbols under rows of cumulative frequencies."""
    x, counter, n = state[head], state[COUNTER], np.int64(state[N_WORDS])
    for i in range(len(symbols)):
        if not 0 <= rows[i] < cumulative.shape[0]:
            return OUTSIDE
        row, u = cumulative[rows[i]], peek(x, PROBABILITY_BITS)
        low, high = 0, cumulative.shape[1] - 1
        while high - low > 1:
            middle = (low + high) >> 1
            if row[middle] <= u:
                low = middle
            else:
                high = middle
        symbols[i] = low
        x, n, counter = take(x, n, counter, words, head == 0, row[low], row[low + 1] - row[low], PROBABILITY_BITS)
        if n < 0:
            return EMPTY
    return store(state, head, x, n, counter)
