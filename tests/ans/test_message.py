"""The coder against independent ones: docs/format.md in plain Python integers, ``constriction``, and -log2 p."""

import numpy as np
import pytest
import torch
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue]: a compiled module without stubs
from torch.distributions import Normal

from nelbo.ans.distributions import CODECS
from nelbo.ans.loops import keystream
from nelbo.ans.message import Head, Message
from nelbo.ans.tables import cumulative_integers, mean_integers, rate_integers, sharpness_integers
from nelbo.diffusion.decoder import discretised_gaussian, to_unit

MASK = 2**64 - 1
KAPPA = 0.5


# docs/format.md in Python's integers


def reference_key(i: int) -> int:
    z = (i + 1) * 0x9E3779B97F4A7C15 & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return (z ^ z >> 31) >> 32


class Reference:
    """A message by the specification: one symbol at a time, slow and plain."""

    def __init__(self, words):
        self.words, self.counter = [int(word) for word in words], 0
        self.heads = {Head.Q: 1, Head.P: 2**32}
        self.heads[Head.Q] = 2**32 | self.words.pop() ^ reference_key(0)
        self.counter = 1

    def push(self, head, start, freq, bits=24):
        x = self.heads[head]
        if x >= freq << (64 - bits):
            word, x = x % 2**32, x >> 32
            if head is Head.Q:
                self.counter = self.counter - 1 & MASK
                word ^= reference_key(self.counter)
            self.words.append(word)
        self.heads[head] = (x // freq << bits) + start + x % freq

    def pop(self, head, find, bits=24):
        x = self.heads[head]
        symbol, start, freq = find(x % 2**bits)
        x = freq * (x >> bits) + x % 2**bits - start
        if x < 2**32:
            word = self.words.pop()
            if head is Head.Q:
                word ^= reference_key(self.counter)
                self.counter = self.counter + 1 & MASK
            x = x << 32 | word
        self.heads[head] = x
        return symbol

    def pop_bits(self, head, bits):
        return self.pop(head, lambda u: (u, u, 1), bits) if bits else 0

    def is_same(self, message):
        return (self.heads[Head.Q], self.heads[Head.P], self.counter, self.words) == (
            message.head_q,
            message.head_p,
            message.counter,
            message.words.tolist(),
        )


def reference_mass(tables, edge, rate):
    t = (edge * rate >> 16) + 6 * 2**24
    if not 0 < t < 12 * 2**24:
        return 0 if t <= 0 else 2**30
    low, high = int(tables.cdf[t >> 16]), int(tables.cdf[(t >> 16) + 1])
    return low + ((high - low) * (t & 0xFFFF) >> 16)


def reference_window(tables, mean, rate):
    """The lattice's first point in the window, and the cumulative frequencies of its points and the escape."""
    centre, radius = mean + 2**15 >> 16, -(-6 * 2**24 // rate)
    n_cells = 2 * radius + 1
    edge = (centre - radius) * 2**16 - 2**15 - mean
    masses = [0, *(reference_mass(tables, edge + j * 2**16, rate) for j in range(1, n_cells)), 2**30]
    return centre - radius, [j + (mass * (2**24 - 1 - n_cells) >> 30) for j, mass in enumerate(masses)] + [2**24]


def reference_greys(tables, mean, rate):
    masses = [0, *(reference_mass(tables, v * 2**16 - 2**15 - mean, rate) for v in range(1, 256)), 2**30]
    return [v + (mass * (2**24 - 256) >> 30) for v, mass in enumerate(masses)]


def reference_softmax(tables, mean, sharpness):
    nearest, weights = min(max(mean + 2**15 >> 16, 0), 255), []
    for v in range(256):
        excess = (v - nearest) * ((v + nearest) * 2**16 - 2 * mean)
        y, i = excess * sharpness >> 26, excess * sharpness >> 41
        if excess >= 24 * 2**48 // sharpness:
            weights.append(0)
        else:
            low, high = int(tables.exp[i]), int(tables.exp[i + 1])
            weights.append(low + ((high - low) * (y & 0x7FFF) >> 15))
    sums = [0, *np.cumsum(weights).tolist()]
    return [v + below * (2**24 - 256) // sums[-1] for v, below in enumerate(sums)]


def found_in(cumulative):
    def find(u):
        j = int(np.searchsorted(cumulative, u, side="right")) - 1
        return j, cumulative[j], cumulative[j + 1] - cumulative[j]

    return find


def reference_gaussian_pop(reference, head, tables, mean, rate):
    first, cumulative = reference_window(tables, mean, rate)
    j = reference.pop(head, found_in(cumulative))
    if j < len(cumulative) - 2:
        return first + j
    code = reference.pop_bits(head, 6)
    length, negative = code >> 1, code & 1
    high = reference.pop_bits(head, max(length - 16, 0))
    tail = high << min(length, 16) | reference.pop_bits(head, min(length, 16))
    distance = 2**length + tail
    return first - distance if negative else first + len(cumulative) - 3 + distance


def test_keystream_is_splitmix64():
    # The first outputs of splitmix64 with seed 0 are e220a8397b1dcdaf, 6e789e6aa1b965f4, 06c45d188009454f.
    assert [int(keystream(np.uint64(i))) for i in range(3)] == [0xE220A839, 0x6E789E6A, 0x06C45D18]
    assert int(keystream(np.uint64(MASK))) == reference_key(MASK) == 0


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


# Code lengths against the exact distributions


def pushed_bits(codec, symbols):
    message = Message.seeded(np.zeros(1, np.uint32))
    before = message.n_bits
    codec.push(message, Head.P, symbols)
    return message.n_bits - before


@pytest.mark.parametrize("std", [0.1, 0.5, 2.0, 8.0, 32.0, 100.0])
def test_rounding_costs_next_to_nothing(tables, std):
    """The divergence of the coded from the exact distribution, in bits per symbol, at random phases."""
    for mean in np.random.default_rng(9).uniform(-1, 1, 5):
        first, cumulative = reference_window(
            tables, int(mean_integers(np.array([mean]))[0]), int(rate_integers(np.array([std]))[0])
        )
        points = first + torch.arange(len(cumulative) - 2, dtype=torch.float64)
        upper, lower = ((points + side - mean) / std for side in (0.5, -0.5))
        upper, lower = torch.where(lower > 0, -lower, upper), torch.where(lower > 0, -upper, lower)
        mass = (torch.special.ndtr(upper) - torch.special.ndtr(lower)).numpy()
        excess = np.sum(mass * np.log2(np.maximum(mass, 1e-300) * 2**24 / np.diff(cumulative[:-1])))
        assert -1e-9 < excess < 5e-7 + 2.2e-7 * std


@pytest.mark.parametrize("ratio", [0.3, 1.0, 1.7, 4.0, 16.0, 50.0])
def test_lattice_points_cost_their_information(tables, ratio):
    """Steps of kappa sigma_Q, a kernel of ratio sigma_Q: within 1e-4 of -log2 of the exact mass."""
    rng, n, std = np.random.default_rng(5), 200_000, ratio / KAPPA
    mean = rng.uniform(-99, 99, n)
    points = np.rint(rng.normal(mean, std)).astype(int)
    codec = CODECS["gaussian"](tables, mean_integers(mean), rate_integers(np.full(n, std)))
    upper, lower = ((torch.from_numpy(points - mean) + side) / std for side in (0.5, -0.5))
    flip = lower > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    mass = Normal(0.0, 1.0).cdf(upper) - Normal(0.0, 1.0).cdf(lower)
    exact = -torch.log2(mass).sum().item()
    assert pushed_bits(codec, points) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("std", [0.2, 1.0, 3.0, 30.0])
def test_grey_levels_cost_their_information(tables, std):
    """Both decoders, against the ones that the bound is computed with; 256 units of 2^24 cost 2.2e-5 bits a symbol."""
    rng, n = np.random.default_rng(6), 20_000
    mean = rng.uniform(-1, 256, n)
    values = np.clip(np.rint(rng.normal(mean, std)), 0, 255).astype(int)
    to_x = 2 / 256  # A grey level in units of x, whose value 0 is at -1 + 1/256.
    center = torch.from_numpy((mean + 0.5) * to_x - 1)
    log_p = discretised_gaussian(to_unit(torch.from_numpy(values)).double(), center, torch.tensor(std * to_x).double())
    codec = CODECS["grey_gaussian"](tables, mean_integers(mean), rate_integers(np.full(n, std)))
    assert pushed_bits(codec, values) == pytest.approx(-log_p.sum().item() / np.log(2), rel=1e-4, abs=2.4e-5 * n)
    logits = -0.5 * ((torch.arange(256) - torch.from_numpy(mean)[:, None]) / std).square()
    draws = torch.multinomial(torch.softmax(logits, 1), 1, generator=torch.Generator().manual_seed(0))
    log_p, values = torch.log_softmax(logits, 1).gather(1, draws), draws[:, 0].numpy()
    codec = CODECS["grey_softmax"](tables, mean_integers(mean), sharpness_integers(np.full(n, std)))
    assert pushed_bits(codec, values) == pytest.approx(-log_p.sum().item() / np.log(2), rel=1e-4, abs=2.4e-5 * n)


def test_pops_are_fair_samples(tables):
    """Random words pop to the distribution itself: frequencies within five standard errors."""
    n, std = 200_000, 2.0
    codec = CODECS["gaussian"](tables, np.full(n, 20_000), rate_integers(np.full(n, std)))
    words = np.random.default_rng(8).integers(0, 2**32, n, dtype=np.uint32)
    points = codec.pop(Message.seeded(words), Head.Q)
    edges = torch.arange(-8, 10) - 0.5 - 20_000 / 2**16
    mass = np.diff(Normal(0.0, 1.0).cdf(edges / std).numpy())
    found = np.histogram(points, bins=np.arange(-8, 10) - 0.5)[0] / n
    assert np.all(np.abs(found - mass) <= 5 * np.sqrt(mass / n))


def test_bits_pushed_by_one_head_are_clean_for_the_other(tables):
    """The dirty bits of bits-back: a stack of words that are all the same pops to a fair sample under head Q."""
    codec = CODECS["uniform"](np.full(40_000, 8))
    symbols = codec.pop(Message.seeded(np.full(20_000, 0xDEADBEEF, np.uint32)), Head.Q)
    counts = np.bincount(symbols, minlength=256)
    assert ((counts - 40_000 / 256) ** 2 / (40_000 / 256)).sum() < 255 + 5 * np.sqrt(2 * 255)
    dirty = codec.pop(Message.seeded(np.full(20_000, 0xDEADBEEF, np.uint32)), Head.P)
    assert len(set(dirty.tolist())) < 10
