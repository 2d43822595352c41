"""VP, VE and sub-VP are one process up to a factor: same posteriors, same bound, same samples after rescaling."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nelbo.data import open_images
from nelbo.diffusion.bound import bound, continuous_diffusion, squared_error
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.draws import evaluation_draws
from nelbo.diffusion.gaussian import (
    SPECIFICATIONS,
    VP,
    alpha,
    denoised,
    diffuse,
    noise_of,
    posterior,
    rescaled,
    sigma,
    transition,
)
from nelbo.diffusion.noise_schedule import Cosine, Linear, Table
from nelbo.evaluation import standard_error
from nelbo.models.folder import load
from nelbo.models.respecified import Respecified
from nelbo.nets.closed_form import GaussianDenoiser, MixtureDenoiser
from nelbo.runtime.bundled import bundled_images, bundled_models

SHAPE = (1, 2, 2)
every = pytest.mark.parametrize("spec", SPECIFICATIONS.values(), ids=SPECIFICATIONS.keys())
gammas = st.floats(-13.3, 8.0)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


@every
@given(gamma=gammas)
def test_the_snr_is_that_of_gamma_in_every_specification(spec, gamma):
    g = double(gamma)
    torch.testing.assert_close(sigma(g, spec) / alpha(g, spec), torch.exp(g / 2), rtol=1e-12, atol=0)


@given(gamma=gammas)
def test_each_specification_is_what_its_name_says(gamma):
    g = double(gamma)
    a, s = ({name: f(g, spec) for name, spec in SPECIFICATIONS.items()} for f in (alpha, sigma))
    torch.testing.assert_close(a["vp"].square() + s["vp"].square(), torch.ones(1).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(a["ve"], torch.ones(1).double(), rtol=0, atol=0)
    torch.testing.assert_close(a["sub_vp"].square() + s["sub_vp"], torch.ones(1).double(), rtol=1e-12, atol=0)


@every
def test_latents_go_there_and_back(spec):
    g, z = double(-13.3, 0.3, 5.0), normal(3, *SHAPE)
    torch.testing.assert_close(rescaled(rescaled(z, g, VP, spec), g, spec, VP), z, rtol=1e-14, atol=0)
    x, eps = normal(3, *SHAPE, seed=1), normal(3, *SHAPE, seed=2)
    latents = diffuse(x, eps, g, spec)
    torch.testing.assert_close(rescaled(diffuse(x, eps, g), g, VP, spec), latents, rtol=1e-12, atol=0)
    torch.testing.assert_close(denoised(latents, eps, g, spec), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(noise_of(latents, x, g, spec), eps, rtol=1e-9, atol=1e-9)


@every
@given(gamma_s=gammas, step=st.floats(1e-3, 10))
def test_transition_and_posterior_are_those_of_vp_rescaled(spec, gamma_s, step):
    s, t = double(gamma_s), double(gamma_s + step)
    z_t, x = normal(1, *SHAPE), normal(1, *SHAPE, seed=1)
    mean, std = posterior(rescaled(z_t, t, VP, spec), x, s, t, spec)
    mean_vp, std_vp = posterior(z_t, x, s, t)
    torch.testing.assert_close(mean, rescaled(mean_vp, s, VP, spec), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(std / alpha(s, spec), std_vp / alpha(s), rtol=1e-9, atol=0)
    scale, noise = transition(s, t, spec)
    torch.testing.assert_close(scale, alpha(t, spec) / alpha(s, spec), rtol=1e-9, atol=0)
    total = (scale * sigma(s, spec)).square() + noise.square()
    torch.testing.assert_close(total.sqrt(), sigma(t, spec), rtol=1e-9, atol=0)


# The bound and the samples of a model

IMAGES = torch.tensor([[0, 10, 255, 4], [0, 10, 255, 6], [200, 10, 90, 4]], dtype=torch.uint8).reshape(-1, *SHAPE)


@every
@pytest.mark.parametrize("n_steps", [None, 7])
def test_the_bound_of_an_exact_denoiser_is_the_same(exact_model, spec, n_steps):
    model = exact_model(MixtureDenoiser(to_unit(IMAGES)), Linear(-13.3, 5.0))
    view, draws = Respecified(model, spec), evaluation_draws(range(3), SHAPE, seed=0)
    x, eps, gamma = to_unit(IMAGES).double(), draws.eps_t.double(), model.noise_schedule(draws.u)
    errors = [squared_error(m, x, eps, gamma) for m in (view, model)]
    torch.testing.assert_close(errors[0], errors[1], rtol=1e-7, atol=1e-12)
    seen, expected = bound(view, IMAGES, draws, n_steps), bound(model, IMAGES, draws, n_steps)
    for term in ("prior", "reconstruction", "diffusion"):  # Images are float32.
        torch.testing.assert_close(getattr(seen, term), getattr(expected, term), rtol=1e-3, atol=1e-4)


@every
def test_samples_are_the_same_after_rescaling(exact_model, spec):
    root = normal(4, 4)
    model = exact_model(GaussianDenoiser(0.3 * normal(*SHAPE, seed=1), 0.2 * root @ root.T), Cosine(-8.0, 5.0))
    grid, view = model.noise_schedule.grid(20), Respecified(model, spec)
    z = normal(4, *SHAPE, seed=3)
    other = rescaled(z, grid[-1:].expand(4), VP, spec)
    for k in range(20, 0, -1):
        s, t, eps = grid[k - 1].expand(4), grid[k].expand(4), normal(4, *SHAPE, seed=10 + k)
        z = model.reverse.step(z, model.denoise(z, t), s, t, eps)
        other = view.ancestral_step(other, s, t, eps)
        torch.testing.assert_close(rescaled(other, s, spec, VP), z, rtol=1e-8, atol=1e-9)


@pytest.fixture(scope="module")
def bundled():
    return load(next(name for name in bundled_models() if name == "cifar10-small"))


@pytest.fixture(scope="module")
def pictures():
    return open_images(next(name for name in bundled_images() if name == "cifar10-test-256")).read(range(32))


@every
def test_the_bundled_models_bound_is_the_same_but_for_rounding(bundled, pictures, spec):
    images = pictures[:4]
    draws = evaluation_draws(range(4), bundled.image_shape, seed=0)
    with torch.no_grad():
        seen, expected = (bound(m, images, draws).bpd for m in (Respecified(bundled, spec), bundled))
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=0)


def test_the_bundled_models_bound_is_the_same_under_another_schedule_within_its_error(bundled, pictures):
    """Linear, and one made of unequal pieces with equal ends, at random times: eq. 18 of the paper."""
    estimates = []
    for schedule in (bundled.noise_schedule, Table([-13.3, -9.0, -5.0, 1.0, 5.0])):
        draws = [evaluation_draws(range(32), bundled.image_shape, 0, 4, which) for which in range(4)]
        with torch.no_grad():
            values = torch.cat([bound(Rescheduled(bundled, schedule), pictures, d).bpd for d in draws])
        estimates.append((values.mean().item(), standard_error(values, torch.cat([d.u for d in draws]))))
    (linear, error), (pieces, other_error) = estimates
    assert abs(linear - pieces) < 4 * math.hypot(error, other_error)
    assert max(error, other_error) < 0.3


def test_the_bundled_models_loss_is_the_same_under_the_cosine_schedule_noise_level_by_noise_level(bundled, pictures):
    """Under it random times would need thousands of evaluations: half of the levels lie at t below 0.001."""
    edges = torch.linspace(-13.3, 5.0, 33, dtype=torch.float64)
    x, eps = to_unit(pictures), evaluation_draws(range(32), bundled.image_shape, 0).eps_t
    losses = []
    for schedule in (Linear(-13.3, 5.0), Cosine(-13.3, 5.0)):
        times = schedule.inverse(edges)
        u = schedule.inverse(0.5 * (edges[1:] + edges[:-1]))  # One image at each level.
        with torch.no_grad():
            losses.append(times.diff() * continuous_diffusion(Rescheduled(bundled, schedule), x, u, eps))
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)
    torch.testing.assert_close(losses[1].sum(), losses[0].sum(), rtol=0.01, atol=0)


class Rescheduled:
    """A model with another noise schedule."""

    decoder: Any
    reverse: Any
    specification: Any
    gammas: Any
    exit_std: Any
    denoise: Any
    denoise_with_range: Any

    def __init__(self, model, noise_schedule):
        self.model, self.noise_schedule = model, noise_schedule
        self.decoder, self.reverse, self.specification = model.decoder, model.reverse, model.specification
        self.gammas, self.exit_std = model.gammas, model.exit_std
        self.denoise, self.denoise_with_range = model.denoise, model.denoise_with_range
