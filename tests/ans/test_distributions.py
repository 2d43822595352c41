"""Laws of every codec: push and pop undo each other bit for bit, also interleaved and at an empty stack."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nelbo.ans.distributions import CODECS
from nelbo.ans.message import Head, Message, bytes_of, words_of
from nelbo.errors import CorruptArchiveError, NelboError, StackEmptyError

N_SYMBOLS = 50
codecs = pytest.mark.parametrize("name", CODECS)
heads = pytest.mark.parametrize("head", Head)


def random_message(n_words: int, seed: int = 0) -> Message:
    return Message.seeded(np.random.default_rng(seed).integers(0, 2**32, n_words, dtype=np.uint32))


@codecs
@heads
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32))
def test_push_undoes_pop(codec_case, name, head, seed):
    codec, message = codec_case(name, N_SYMBOLS, seed), random_message(400, seed)
    before = message.copy()
    symbols = codec.pop(message, head)
    assert message != before
    codec.push(message, head, symbols)
    assert message == before


@codecs
@heads
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32))
def test_pop_undoes_push(codec_case, name, head, seed):
    codec, message = codec_case(name, N_SYMBOLS, seed), random_message(1, seed)
    symbols = codec.pop(random_message(400, seed + 1), head)
    before = message.copy()
    codec.push(message, head, symbols)
    np.testing.assert_array_equal(codec.pop(message, head), symbols)
    assert message == before


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), n_steps=st.integers(1, 8))
def test_interleaved_heads_are_undone_in_reverse(codec_case, seed, n_steps):
    """As bits-back does it: pops under head Q and pushes under head P of what was popped elsewhere, any codecs."""
    rng, message = np.random.default_rng(seed), random_message(4000, seed)
    before, done = message.copy(), []
    for step in range(n_steps):
        q, p = (codec_case(str(rng.choice(list(CODECS))), N_SYMBOLS, seed + 2 * step + i) for i in range(2))
        data = p.pop(random_message(400, seed + step), Head.P)
        done.append((q, p, q.pop(message, Head.Q), data))
        p.push(message, Head.P, data)
    for q, p, latents, data in reversed(done):
        np.testing.assert_array_equal(p.pop(message, Head.P), data)
        q.push(message, Head.Q, latents)
    assert message == before
    np.testing.assert_array_equal(message.unseeded(), before.unseeded())


@codecs
@heads
def test_an_empty_stack_is_an_error_that_changes_nothing(codec_case, name, head):
    codec, message = codec_case(name, 200, 0), random_message(3)
    before = message.copy()
    with pytest.raises(StackEmptyError):
        codec.pop(message, head)
    assert message == before


def test_one_array_is_its_symbols_one_by_one():
    """Nothing is hidden in the vectorisation: a push of an array is single pushes, the last symbol first."""
    n_bits = np.array([3, 0, 24, 17, 8])
    whole, single = random_message(9), random_message(9)
    symbols = CODECS["uniform"](n_bits).pop(random_message(20, 1), Head.P)
    CODECS["uniform"](n_bits).push(whole, Head.Q, symbols)
    for i in reversed(range(len(n_bits))):
        CODECS["uniform"](n_bits[i : i + 1]).push(single, Head.Q, symbols[i : i + 1])
    assert whole == single


@codecs
def test_lengths_must_agree(codec_case, name):
    with pytest.raises(NelboError, match="3 symbols for a codec of 5"):
        codec_case(name, 5, 0).push(random_message(9), Head.P, np.zeros(3, np.int64))


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("uniform", -1),
        ("uniform", 2**24),
        ("categorical", -1),
        ("categorical", 40),
        ("grey_gaussian", 256),
        ("grey_softmax", -1),
        ("gaussian", 2**34),
        ("gaussian", -(2**63)),
        ("gaussian", 2**63 - 1),
    ],
)
def test_symbols_outside_are_refused(codec_case, name, symbol):
    message = random_message(9)
    before = message.copy()
    symbols = np.full(4, symbol)
    with pytest.raises(NelboError, match="outside"):
        codec_case(name, 4, 0).push(message, Head.P, symbols)
    assert message == before


@pytest.mark.parametrize("name", ["gaussian", "grey_gaussian", "grey_softmax"])
@pytest.mark.parametrize(
    ("mean", "scale"), [(2**62, 2**24), (-(2**63), 2**24), (0, 0), (0, -1), (0, 2**62), (0, -(2**63))]
)
def test_parameters_outside_are_refused(tables, name, mean, scale):
    codec = CODECS[name](tables, np.array([mean]), np.array([scale]))
    with pytest.raises(NelboError, match="outside"):
        codec.pop(random_message(9), Head.P)
    with pytest.raises(NelboError, match="outside"):
        codec.push(random_message(9), Head.P, np.array([0]))


@pytest.mark.parametrize(
    "rows", [[[1, 2**24]], [[0, 5, 5, 2**24]], [[0, 2**23, 2**24 - 1]], [[0, 9, 8, 2**24]], [[0, 2**24]]]
)
def test_rows_that_are_no_distribution_are_refused(rows):
    with pytest.raises(NelboError, match=r"cumulative|single symbol"):
        CODECS["categorical"](np.array(rows, np.uint32), np.array([0]))


@pytest.mark.parametrize("row", [-1, 1])
def test_rows_that_do_not_exist_are_refused(row):
    codec = CODECS["categorical"](np.array([[0, 5, 2**24]], np.uint32), np.array([row]))
    with pytest.raises(NelboError, match="outside"):
        codec.pop(random_message(9), Head.P)


@given(words=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=9))
def test_a_seed_is_given_back(words):
    seed = np.array(words, np.uint32)
    message = Message.seeded(seed)
    assert message.n_words == len(seed) - 1
    np.testing.assert_array_equal(message.unseeded(), seed)


@given(data=st.binary(max_size=20))
def test_bytes_are_words(data):
    words = words_of(data)
    assert bytes_of(words) == data + bytes(4 * len(words) - len(data))
    assert words_of(b"\x01\x02\x03\x04\x05").tolist() == [0x04030201, 5]


def test_a_seed_has_a_word():
    with pytest.raises(StackEmptyError):
        Message.seeded(np.zeros(0, np.uint32))


@pytest.mark.parametrize("change", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_a_message_that_is_not_as_seeded_is_refused(change):
    message = random_message(5)
    q, p, counter = change
    other = Message(message.words, message.head_q + (q << 33), message.head_p + p, 1 + counter)
    with pytest.raises(CorruptArchiveError, match="does not end where it began"):
        other.unseeded()


@pytest.mark.parametrize("heads", [(2**32 - 1, 2**32), (2**32, 0)])
def test_heads_outside_their_range_are_refused(heads):
    head_q, head_p = heads
    with pytest.raises(CorruptArchiveError, match="out of its range"):
        Message(np.zeros(3, np.uint32), head_q, head_p, 0)


def test_messages_differ_in_what_is_above_the_stack_only_if_it_counts(codec_case):
    codec, message = codec_case("gaussian", 40, 0), random_message(100)
    fresh = message.copy()
    codec.push(message, Head.P, codec.pop(message, Head.P))
    assert message == fresh
    assert message != 3
    fresh.words[0] ^= np.uint32(1)
    assert message != fresh
