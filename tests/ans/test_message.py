"""The message against docs/format.md in plain Python integers, and its two heads."""

import numpy as np
import pytest

from nelbo.ans.distributions import CODECS
from nelbo.ans.message import Head, Message
from nelbo.ans.tables import cumulative_integers, mean_integers, rate_integers, sharpness_integers
from nelbo.errors import CorruptArchiveError

from fixtures.ans_reference import (
    Reference,
    found_in,
    reference_gaussian_pop,
    reference_greys,
    reference_softmax,
    reference_window,
)


@pytest.mark.parametrize("head", Head)
def test_pops_follow_the_specification(tables, head):
    rng, n = np.random.default_rng(0), 300
    words = rng.integers(0, 2**32, 8 * n, dtype=np.uint32)
    message, reference = Message.seeded(words), Reference(words)
    n_bits = rng.integers(0, 25, n)
    expected = [reference.pop_bits(head, int(bits)) for bits in n_bits]
    assert CODECS["uniform"](n_bits).pop(message, head).tolist() == expected
    mean, rate = mean_integers(rng.normal(0, 99, n)), rate_integers(np.exp2(rng.uniform(-8, 7, n)))
    expected = [
        reference_gaussian_pop(reference, head, tables, int(m), int(r)) for m, r in zip(mean, rate, strict=True)
    ]
    assert CODECS["gaussian"](tables, mean, rate).pop(message, head).tolist() == expected
    mean = mean_integers(rng.uniform(-20, 275, n))
    pairs = [(int(m), int(r)) for m, r in zip(mean, rate, strict=True)]
    expected = [reference.pop(head, found_in(reference_greys(tables, *pair))) for pair in pairs]
    assert CODECS["grey_gaussian"](tables, mean, rate).pop(message, head).tolist() == expected
    sharpness = sharpness_integers(np.exp2(rng.uniform(-5, 6, n)))
    pairs = [(int(m), int(s)) for m, s in zip(mean, sharpness, strict=True)]
    expected = [reference.pop(head, found_in(reference_softmax(tables, *pair))) for pair in pairs]
    assert CODECS["grey_softmax"](tables, mean, sharpness).pop(message, head).tolist() == expected
    cumulative, rows = cumulative_integers(rng.dirichlet(np.full(9, 0.3), 5)), rng.integers(0, 5, n)
    expected = [reference.pop(head, found_in(cumulative[row].astype(int).tolist())) for row in rows]
    assert CODECS["categorical"](cumulative, rows).pop(message, head).tolist() == expected
    assert reference.is_same(message)


def test_pushes_follow_the_specification(tables):
    rng, n = np.random.default_rng(1), 200
    words = rng.integers(0, 2**32, 9, dtype=np.uint32)
    message, reference = Message.seeded(words), Reference(words)
    mean, rate = mean_integers(rng.normal(0, 9, n)), rate_integers(np.exp2(rng.uniform(-3, 5, n)))
    symbols = np.rint(mean / 2**16 + rng.normal(size=n)).astype(int)
    for i in reversed(range(n)):
        first, cumulative = reference_window(tables, int(mean[i]), int(rate[i]))
        j = int(symbols[i]) - first
        if 0 <= j < len(cumulative) - 2:
            reference.push(Head.Q, cumulative[j], cumulative[j + 1] - cumulative[j])
            continue
        distance = max(-j, j - len(cumulative) + 3)
        length, negative = distance.bit_length() - 1, int(j < 0)
        assert length <= 16
        if length:
            reference.push(Head.Q, distance - 2**length, 1, length)
        reference.push(Head.Q, 2 * length + negative, 1, 6)
        reference.push(Head.Q, 2**24 - 1, 1)
    CODECS["gaussian"](tables, mean, rate).push(message, Head.Q, symbols)
    assert reference.is_same(message)
    assert message.counter > 2**63  # Head Q has pushed more than it popped: the counter wrapped.


def test_bits_pushed_by_one_head_are_clean_for_the_other(tables):
    """The dirty bits of bits-back: a stack of words that are all the same pops to a fair sample under head Q."""
    codec = CODECS["uniform"](np.full(40_000, 8))
    symbols = codec.pop(Message.seeded(np.full(20_000, 0xDEADBEEF, np.uint32)), Head.Q)
    counts = np.bincount(symbols, minlength=256)
    assert ((counts - 40_000 / 256) ** 2 / (40_000 / 256)).sum() < 255 + 5 * np.sqrt(2 * 255)
    dirty = codec.pop(Message.seeded(np.full(20_000, 0xDEADBEEF, np.uint32)), Head.P)
    assert len(set(dirty.tolist())) < 10


def test_a_message_that_does_not_end_as_it_began_gives_no_words_back():
    words = np.arange(5, dtype=np.uint32)
    message = Message.seeded(words)
    assert message.unseeded().tolist() == words.tolist()
    q, p = message.head_q, message.head_p
    for heads_and_counter in [(q << 1, p, 1), (q, p + 1, 1), (q, p, 0), (q, p, 2), (q, p, 2**64 - 1)]:
        with pytest.raises(CorruptArchiveError, match="does not end where it began"):
            Message(message.words, *heads_and_counter).unseeded()
