"""Code lengths against -log2 of the exact distributions, and pops against their frequencies."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from nelbo.ans.distributions import CODECS
from nelbo.ans.message import Head, Message
from nelbo.ans.tables import mean_integers, rate_integers, sharpness_integers
from nelbo.diffusion.decoder import discretised_gaussian, to_unit

from fixtures.ans_reference import reference_window

KAPPA = 0.5


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
