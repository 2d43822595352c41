"""Importance sampling moves the noise of the loss, not its mean; it is resumed bit for bit and shared by processes."""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nelbo.diffusion.bound import continuous_diffusion, to_bpd
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.draws import training_draws
from nelbo.diffusion.weighting import WEIGHTINGS
from nelbo.errors import NelboError
from nelbo.models.vdm import VDM
from nelbo.train.config import override
from nelbo.train.importance import EVEN_SHARE, GammaImportance
from nelbo.train.loop import Trainer
from nelbo.train.presets import preset
from nelbo.train.weighted import WeightedObjective

FIXED = "model.noise_schedule.learned=false"
ADAPTIVE = (FIXED, "gamma_sampling=adaptive")


def importance(world, losses, visited=None, n_bins=12):
    """Returns a density that has seen some losses, one for each bin."""
    built = GammaImportance(-7.0, 5.0, n_bins)
    gamma = -7 + (torch.arange(n_bins, dtype=torch.float64) + 0.5) * 12 / n_bins
    keep = slice(None) if visited is None else visited
    built.note(gamma[keep], torch.as_tensor(losses, dtype=torch.float64)[keep])
    built.update(world)
    return built


losses = st.lists(st.floats(1e-3, 1e6), min_size=12, max_size=12)


@given(losses=losses)
def test_the_density_is_what_the_draws_have_and_integrates_to_one(losses, world):
    built = importance(world, losses)
    assert built.masses().sum().item() == pytest.approx(1)
    n = 20_000
    gamma, density = built((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    assert bool((gamma.diff() > 0).all())
    assert -7 <= gamma[0] < gamma[-1] <= 5
    share = torch.histc(gamma, 12, -7, 5) / n
    torch.testing.assert_close(share, built.masses(), rtol=0, atol=2 / n)
    torch.testing.assert_close((1 / density).mean(), torch.tensor(12.0).double(), rtol=1e-2, atol=0)


@given(losses=losses)
def test_masses_follow_the_losses_and_no_bin_is_forgotten(losses, world):
    built = importance(world, losses)
    expected = (1 - EVEN_SHARE) * torch.tensor(losses, dtype=torch.float64) / sum(losses) + EVEN_SHARE / 12
    torch.testing.assert_close(built.masses(), expected, rtol=1e-9, atol=0)


def test_before_anything_is_seen_draws_are_even_and_unseen_bins_count_as_average(world):
    fresh = GammaImportance(-7.0, 5.0, 12)
    torch.testing.assert_close(fresh.masses(), torch.full((12,), 1 / 12).double())
    u = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    torch.testing.assert_close(fresh(u)[0], -7 + 12 * u)
    built = importance(world, [2.0] * 6 + [4.0] * 6, visited=[0, 1, 10, 11])
    shares = torch.tensor([2.0, *[3.0] * 4, 4.0], dtype=torch.float64).repeat_interleave(2) / 36
    torch.testing.assert_close(built.masses(), (1 - EVEN_SHARE) * shares + EVEN_SHARE / 12)


@given(u=st.floats(0, 1, exclude_max=True), losses=losses)
def test_any_uniform_number_gives_a_gamma_in_range(u, losses, world):
    gamma, density = importance(world, losses)(torch.tensor([u], dtype=torch.float64))
    assert -7 <= gamma.item() <= 5
    assert density.item() >= EVEN_SHARE / 12


@given(losses=losses)
def test_the_estimate_has_the_same_mean_under_any_density(losses, world):
    """The midpoint rule over u stands for the expectation."""
    integrand = lambda gamma: torch.exp(gamma / 4) + torch.cos(gamma)  # noqa: E731
    n = 200_000
    gamma, density = importance(world, losses)((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    truth = 4 * (math.exp(5 / 4) - math.exp(-7 / 4)) + math.sin(5) - math.sin(-7)
    assert (integrand(gamma) / density).mean().item() == pytest.approx(truth, rel=1e-4)


def test_draws_in_proportion_to_the_loss_have_a_small_part_of_the_variance(world):
    loss = torch.exp(torch.linspace(-6.5, 4.5, 12, dtype=torch.float64))

    def variance(masses):
        return (loss.square() / masses).sum() - loss.sum().square()

    assert variance(importance(world, loss).masses()) < 0.05 * variance(torch.full((12,), 1 / 12).double())


# In training


@pytest.mark.parametrize("weighting", ["elbo", "sigmoid", "edm_monotone"])
def test_the_objective_is_the_weighted_loss_and_one_is_the_bound(weighting, tiny, pixels):
    torch.manual_seed(0)
    vdm = VDM(tiny(FIXED, "model.net.dropout=0").model)
    images = torch.from_numpy(pixels[:6]).permute(0, 3, 1, 2).contiguous()
    draws = training_draws(range(6), 6, (3, 8, 8), 0, 3)
    loss = WeightedObjective(vdm, weighting, is_adaptive=False)(images, draws)
    nats = continuous_diffusion(vdm.given(), to_unit(images), draws.u, draws.eps_t)
    expected = to_bpd(WEIGHTINGS[weighting](vdm.noise_schedule(draws.u)) * nats, vdm.n_dims).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_sampling_adapts_and_is_resumed_bit_for_bit(tiny, images, world):
    config = tiny(*ADAPTIVE, "weighting=sigmoid")
    whole, first, second = (Trainer(config, images, world) for _ in range(3))
    losses = [whole.run_step() for _ in range(6)]
    resumed = [first.run_step() for _ in range(3)]
    stream = io.BytesIO()
    torch.save(first.state(), stream)
    stream.seek(0)
    second.load_state(torch.load(stream, weights_only=True))
    resumed += [second.run_step() for _ in range(3)]
    assert resumed == losses
    assert whole.importance is not None
    assert second.importance is not None
    torch.testing.assert_close(second.importance.state_dict(), whole.importance.state_dict(), rtol=0, atol=0)
    masses = whole.importance.masses()
    assert masses.max() > 1.5 * masses.min()
    assert not whole.importance.pending.any()


def test_two_processes_update_as_one(world):
    """Each notes its part; the sum of what they noted is what one process notes."""
    gamma, loss = torch.linspace(-6.9, 4.9, 16, dtype=torch.float64), torch.arange(16).double()
    one, halves = GammaImportance(-7.0, 5.0), [GammaImportance(-7.0, 5.0) for _ in range(2)]
    one.note(gamma, loss)
    for half, part in zip(halves, (slice(0, 8), slice(8, 16)), strict=True):
        half.note(gamma[part], loss[part])
    torch.testing.assert_close(sum(half.pending for half in halves), one.pending, rtol=0, atol=0)


def test_adaptive_draws_make_the_bounds_gradient_less_noisy_not_another(tiny, images, world):
    """On the bound of a network that knows nothing: the loss falls steeply with gamma, even draws estimate it badly."""
    spreads = {}
    for sampling in ("schedule", "adaptive"):
        config = tiny(FIXED, f"gamma_sampling={sampling}", "weighting=cosine", "learning_rate=1e-12", "n_images=3200")
        trainer = Trainer(config, images, world)
        losses = np.array([trainer.run_step() for _ in range(160)])[80:]
        spreads[sampling] = (losses.mean(), losses.std())
    (even, even_std), (adaptive, adaptive_std) = spreads.values()
    assert adaptive == pytest.approx(even, abs=4 * (even_std + adaptive_std) / math.sqrt(80))
    assert adaptive_std < even_std


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["weighting=loud"], "no such weighting; there are elbo, ddpm, .*sigmoid"),
        (["weighting=sigmoid", "n_steps=10"], "continuous time"),
        (["gamma_sampling=adaptive", "n_steps=10"], "continuous time"),
        (["weighting=edm", 'model.noise_schedule={"type": "linear", "learned": true}'], "fixed noise schedule"),
        (["gamma_sampling=often"], "gamma_sampling"),
    ],
)
def test_what_cannot_be_weighted_is_refused_in_one_line(settings, message):
    with pytest.raises(NelboError, match=message) as caught:
        override(preset("cifar10-small"), settings)
    assert "\n" not in str(caught.value)
