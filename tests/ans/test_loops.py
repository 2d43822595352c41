"""The compiled coder against an independent one, ``constriction``, on the same tables; and its escape."""

import numpy as np
import pytest
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue]: a compiled module without stubs

from nelbo.ans.distributions import CODECS
from nelbo.ans.loops import keystream
from nelbo.ans.message import Head, Message
from nelbo.ans.tables import cumulative_integers, mean_integers, rate_integers, sharpness_integers

from fixtures.ans_reference import MASK, reference_greys, reference_key, reference_softmax, reference_window


def test_keystream_is_splitmix64():
    # The first outputs of splitmix64 with seed 0 are e220a8397b1dcdaf, 6e789e6aa1b965f4, 06c45d188009454f.
    assert [int(keystream(np.uint64(i))) for i in range(3)] == [0xE220A839, 0x6E789E6A, 0x06C45D18]
    assert int(keystream(np.uint64(MASK))) == reference_key(MASK) == 0


# The escape


@pytest.mark.parametrize("distance", [1, 2, 3, 2**15, 2**16, 2**17 - 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("sign", [-1, 1])
def test_points_outside_the_window_are_escaped(tables, distance, sign):
    mean, rate = np.array([123456]), np.array([2**24])
    centre, radius = (123456 + 2**15) >> 16, 6
    codec, message = CODECS["gaussian"](tables, mean, rate), Message.seeded(np.arange(5, dtype=np.uint32))
    before = message.copy()
    codec.push(message, Head.P, np.array([centre + sign * (radius + distance)]))
    assert message.n_bits - before.n_bits == pytest.approx(24 + 6 + distance.bit_length() - 1, abs=1e-6)
    assert codec.pop(message, Head.P).tolist() == [centre + sign * (radius + distance)]
    assert message == before


def test_every_escape_pops_to_what_pushes_back(tables):
    """Forces the escape with a head whose lowest bits name it, over random digits."""
    codec = CODECS["gaussian"](tables, np.array([5]), np.array([2**23]))
    for seed in range(300):
        rng = np.random.default_rng(seed)
        words = rng.integers(0, 2**32, 5, dtype=np.uint32)
        message = Message(words, 2**32, int(rng.integers(2**8, 2**40)) << 24 | 2**24 - 1, 0)
        before = message.copy()
        symbol = codec.pop(message, Head.P)
        assert abs(int(symbol[0])) > 12
        codec.push(message, Head.P, symbol)
        assert message == before


# An independent coder on the same tables


def constriction_model(cumulative):
    frequencies = np.diff(np.asarray(cumulative, np.int64)) / 2**24
    return stream.model.Categorical(frequencies, perfect=True)


def check_against_constriction(codec, rows, to_index, symbols):
    """Pushes the same symbols on the same stack; the words and the head must be the same to the bit."""
    words = np.random.default_rng(7).integers(1, 2**32, 6, dtype=np.uint32)
    message = Message(words[:-2], 2**32, int(words[-1]) << 32 | int(words[-2]), 0)
    oracle = stream.stack.AnsCoder(words)
    for i in reversed(range(len(symbols))):
        oracle.encode_reverse(np.array([to_index(i, symbols[i])], np.int32), constriction_model(rows[i]))
    codec.push(message, Head.P, symbols)
    ours = [*message.words.tolist(), message.head_p % 2**32, message.head_p >> 32]
    assert oracle.get_compressed().tolist() == ours
    decoded = [oracle.decode(constriction_model(row)) for row in rows]
    assert decoded == [to_index(i, symbol) for i, symbol in enumerate(symbols)]
    assert oracle.get_compressed().tolist() == words.tolist()


def test_lattice_agrees_with_constriction(tables):
    rng, n = np.random.default_rng(2), 200
    mean, rate = mean_integers(rng.normal(0, 99, n)), rate_integers(np.exp2(rng.uniform(-2, 4, n)))
    codec = CODECS["gaussian"](tables, mean, rate)
    symbols = codec.pop(Message.seeded(rng.integers(0, 2**32, 999, dtype=np.uint32)), Head.P)
    windows = [reference_window(tables, int(m), int(r)) for m, r in zip(mean, rate, strict=True)]
    check_against_constriction(codec, [row for _, row in windows], lambda i, k: int(k) - windows[i][0], symbols)


def test_greys_agree_with_constriction(tables):
    rng, n = np.random.default_rng(3), 100
    mean = mean_integers(rng.uniform(-5, 260, n))
    rate, sharpness = rate_integers(np.exp2(rng.uniform(-4, 5, n))), sharpness_integers(np.exp2(rng.uniform(-4, 5, n)))
    for codec, rows in (
        (
            CODECS["grey_gaussian"](tables, mean, rate),
            [reference_greys(tables, int(m), int(r)) for m, r in zip(mean, rate, strict=True)],
        ),
        (
            CODECS["grey_softmax"](tables, mean, sharpness),
            [reference_softmax(tables, int(m), int(s)) for m, s in zip(mean, sharpness, strict=True)],
        ),
    ):
        symbols = codec.pop(Message.seeded(rng.integers(0, 2**32, 999, dtype=np.uint32)), Head.P)
        check_against_constriction(codec, rows, lambda i, k: int(k), symbols)


def test_categories_agree_with_constriction():
    rng = np.random.default_rng(4)
    cumulative, rows = cumulative_integers(rng.dirichlet(np.full(30, 0.2), 5)), rng.integers(0, 5, 200)
    codec = CODECS["categorical"](cumulative, rows)
    symbols = codec.pop(Message.seeded(rng.integers(0, 2**32, 999, dtype=np.uint32)), Head.P)
    check_against_constriction(codec, [cumulative[row] for row in rows], lambda i, k: int(k), symbols)
