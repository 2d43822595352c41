"""Draws by importance: whatever the profile, every step can be drawn and the weighted mean is the sum."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nelbo.diffusion.bound import chain_levels, continuous_diffusion, discrete_diffusion
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.importance import EVEN_SHARE, Profile, draw_gamma, draw_step, step_masses
from nelbo.diffusion.noise_schedule import Linear
from nelbo.nets.closed_form import MixtureDenoiser

profiles = st.lists(st.floats(-25.0, 25.0), min_size=1, max_size=9).map(
    lambda logs: Profile(
        torch.linspace(-9.0, 4.0, len(logs), dtype=torch.float64), torch.tensor(logs, dtype=torch.float64).exp()
    )
)


def evenly(n):
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def noise():
    return torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def pixels(n):
    return torch.randint(256, (n, 1, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@given(profile=profiles, n=st.integers(2, 40))
def test_steps_are_drawn_as_often_as_they_weigh_and_each_can_be(profile, n):
    masses = step_masses(profile, torch.linspace(-13.0, 5.0, n + 1, dtype=torch.float64))
    torch.testing.assert_close(masses.sum().item(), 1.0)
    assert masses.min() >= EVEN_SHARE / n
    step, weight = draw_step(masses, evenly(100_000))
    frequency = torch.bincount(step, minlength=n).double() / 100_000
    torch.testing.assert_close(frequency, masses, rtol=0, atol=1.1e-5)
    torch.testing.assert_close(weight, 1 / masses[step])


@given(profile=profiles)
def test_weights_turn_the_mean_over_gamma_into_the_integral(profile):
    ends = torch.tensor([-13.3, 5.0], dtype=torch.float64)
    gamma, weight = draw_gamma(profile, ends[0], ends[1], evenly(200_000))
    assert gamma.min() >= -13.3
    assert gamma.max() <= 5
    assert bool((gamma.diff() > 0).all())
    assert weight.max() <= 18.3 / EVEN_SHARE * (1 + 1e-9)
    torch.testing.assert_close(weight.mean().item(), 18.3, rtol=1e-3, atol=0)
    wave = torch.cos(gamma / 3).square() * weight
    torch.testing.assert_close(
        wave.mean().item(), 9.15 + 0.75 * (math.sin(10 / 3) + math.sin(26.6 / 3)), rtol=3e-3, atol=0
    )


def test_a_profile_is_log_linear_between_its_levels_and_constant_beyond():
    profile = Profile(torch.tensor([-2.0, 0.0, 3.0]).double(), torch.tensor([1.0, 4.0, 0.5]).double())
    found = profile.at(torch.tensor([-9.0, -2.0, -1.0, 0.0, 1.0, 3.0, 7.0]).double())
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 2.0, 4.0, 2.0, 0.5, 0.5]).double())


@pytest.mark.parametrize("gammas", [None, torch.linspace(-9.0, 5.0, 30, dtype=torch.float64)], ids=["vdm", "ddpm"])
@settings(max_examples=20)
@given(profile=profiles)
def test_any_profile_gives_the_same_sum_over_a_chain(exact_model, gammas, profile):
    """To the last digits: the mean over the times that draw a step, weighted by its probability."""
    model = exact_model(MixtureDenoiser(to_unit(pixels(3))), Linear(-9.0, 5.0))
    model.gammas = gammas
    model = model.given()
    masses = step_masses(profile, chain_levels(model, 12))
    n = len(masses)
    x, eps = to_unit(pixels(3))[:1].expand(n, 1, 2, 2), noise().expand(n, 1, 2, 2)
    plain = discrete_diffusion(model, x, evenly(n), eps, 12).mean()
    drawn = (masses * discrete_diffusion(model, x, masses.cumsum(0) - masses / 2, eps, 12, profile)).sum()
    torch.testing.assert_close(drawn, plain, rtol=1e-9, atol=0)


@pytest.mark.parametrize("logs", [(0.0,), (3.0, 0.0, 2.0), (5.0, -5.0)])
def test_any_profile_gives_the_same_integral_over_time(exact_model, logs):
    model = exact_model(MixtureDenoiser(to_unit(pixels(3))), Linear(-9.0, 5.0)).given()
    n, logs = 4000, torch.tensor(logs, dtype=torch.float64)
    x, eps = to_unit(pixels(3))[:1].expand(n, 1, 2, 2), noise().expand(n, 1, 2, 2)
    profile = Profile(torch.linspace(-9.0, 4.0, len(logs), dtype=torch.float64), logs.exp())
    plain, drawn = (continuous_diffusion(model, x, evenly(n), eps, each).mean() for each in (None, profile))
    torch.testing.assert_close(drawn, plain, rtol=1e-3, atol=0)
