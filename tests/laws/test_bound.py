"""The bound's terms are divergences; its time integral and its sums over steps obey their laws."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from nelbo.diffusion.bound import (
    Bound,
    Draws,
    bound,
    continuous_diffusion,
    discrete_diffusion,
    prior_kl,
    squared_error,
    to_bpd,
)
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.gaussian import alpha, diffuse, sigma
from nelbo.diffusion.noise_schedule import Cosine, Linear, MonotoneNetwork, Table
from nelbo.nets.closed_form import GaussianDenoiser, MixtureDenoiser

SHAPE = (1, 2, 2)
SCHEDULES = {
    "linear": Linear(-5.0, 4.0),
    "linear_learned": Linear(-5.0, 4.0, learned=True),
    "cosine": Cosine(-5.0, 4.0),
    "table": Table([-5.0, -4.5, -2.0, 1.0, 4.0]),
    "monotone_network": MonotoneNetwork(-5.0, 4.0, n_units=8),
}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pixels(n, shape=SHAPE):
    return torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


# Single terms


@pytest.mark.parametrize("gamma", [-3.0, 0.0, 5.0, 20.0])
def test_the_prior_term_is_the_divergence_from_the_standard_normal(gamma):
    gamma_1, x = torch.tensor(gamma, dtype=torch.float64), normal(3, 2, 4, 4)
    truth = Normal(alpha(gamma_1) * x, sigma(gamma_1))
    divergence = kl_divergence(truth, Normal(torch.zeros_like(x), 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(prior_kl(x, gamma_1), divergence, rtol=1e-7, atol=1e-12)


def test_at_the_papers_gamma_1_the_prior_term_is_the_reference_figure():
    x = to_unit(pixels(8, (3, 16, 16)))
    bpd = to_bpd(prior_kl(x, torch.tensor(5.0)), 3 * 16 * 16).mean()
    torch.testing.assert_close(bpd, 0.0048 * x.double().square().mean(), rtol=0.03, atol=0)


def test_bits_per_dimension():
    ones = torch.ones(2, dtype=torch.float64)
    result = Bound(prior=ones, reconstruction=2 * ones, diffusion=5 * ones, n_dims=4)
    torch.testing.assert_close(result.total, 8 * ones)
    torch.testing.assert_close(result.bpd, 2 * ones / math.log(2))


@pytest.mark.parametrize("n_steps", [None, 1, 7])
def test_the_bound_is_a_function_of_its_draws_image_by_image(exact_model, n_steps):
    images = pixels(6)
    model = exact_model(MixtureDenoiser(to_unit(images)), Linear(-13.3, 5.0))
    draws = Draws(normal(6, *SHAPE), torch.arange(6, dtype=torch.float64) / 6, normal(6, *SHAPE, seed=1))
    together = bound(model.given(), images, draws, n_steps)
    assert together.total.dtype == torch.float64
    for i in range(6):
        one = slice(i, i + 1)
        alone = bound(model.given(), images[one], Draws(draws.eps_0[one], draws.u[one], draws.eps_t[one]), n_steps)
        torch.testing.assert_close(alone.total, together.total[one], rtol=1e-9, atol=0)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7, 250, 1000])
def test_every_step_is_found_from_the_times_within_it(exact_model, n_steps):
    """From its lower end, included, to its upper end, excluded."""
    model = exact_model(MixtureDenoiser(to_unit(pixels(3))), Linear(-13.3, 5.0))
    gammas, x, eps = model.noise_schedule.grid(n_steps), to_unit(pixels(3))[:1], normal(1, *SHAPE)
    for i in {0, n_steps // 2, n_steps - 1}:
        mistake = eps - model.denoise(diffuse(x, eps, gammas[i + 1][None]), gammas[i + 1][None])
        cost = n_steps * model.reverse.step_kl(mistake, gammas[i][None], gammas[i + 1][None])
        for u in (i / n_steps + 1e-12, (i + 0.5) / n_steps, np.nextafter((i + 1) / n_steps, 0) - 1e-12):
            found = discrete_diffusion(model.given(), x, torch.tensor([u], dtype=torch.float64), eps, n_steps)
            torch.testing.assert_close(found, cost, rtol=1e-9, atol=1e-12)


def test_the_last_time_below_one_is_in_the_last_step(exact_model):
    model = exact_model(MixtureDenoiser(to_unit(pixels(3))), Linear(-13.3, 5.0))
    seen = []
    model.denoise = lambda z, gamma, labels=None: seen.append(gamma) or torch.zeros_like(z)
    u, x = torch.tensor([math.nextafter(1, 0)], dtype=torch.float64), to_unit(pixels(1))
    for n_steps in (1, 3, 10, 250, 1000, 1 << 20):
        discrete_diffusion(model.given(), x, u, normal(1, *SHAPE), n_steps)
    torch.testing.assert_close(torch.cat(seen), torch.full((6,), 5.0).double(), rtol=0, atol=1e-12)


# Gaussian data: the squared error is a quadratic form in (x, eps); Hadamard signs give its mean exactly


def gaussian_denoiser():
    root = normal(4, 4)
    return GaussianDenoiser(0.3 * normal(*SHAPE, seed=1), 0.2 * root @ root.T)


def signs():
    """Returns 8 vectors of 8 signs whose second moments are those of independent standard normals."""
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    return torch.kron(torch.kron(two, two), two)


def points(denoiser):
    """Returns images and noises with the moments of the data's and the noise's."""
    standard, eps = signs().split(4, dim=1)
    x = denoiser.mean + (standard * denoiser.variances.sqrt() @ denoiser.axes.T).reshape(-1, *SHAPE)
    return x, eps.reshape(-1, *SHAPE)


def expectation(term, model, u, *arguments):
    """Returns the exact expectation of a diffusion estimate at each time."""
    x, eps = points(model.denoiser)
    values = term(
        model.given(), x.repeat(len(u), 1, 1, 1), u.repeat_interleave(8), eps.repeat(len(u), 1, 1, 1), *arguments
    )
    return values.reshape(-1, 8).mean(1)


def discrete_loss(model, n_steps):
    u = (torch.arange(n_steps, dtype=torch.float64) + 0.5) / n_steps
    return expectation(discrete_diffusion, model, u, n_steps).mean()


@pytest.mark.parametrize("gamma", [-8.0, -1.0, 3.0])
def test_the_expected_squared_error_is_the_closed_form(exact_model, gamma):
    model = exact_model(gaussian_denoiser(), Linear(-13.3, 5.0))
    x, eps = points(model.denoiser)
    gammas = torch.full((8,), gamma, dtype=torch.float64)
    error = squared_error(model.given(), x, eps, gammas).mean()
    torch.testing.assert_close(error, model.denoiser.expected_error(gammas[:1])[0], rtol=1e-10, atol=0)
    assert diffuse(x, eps, gammas).dtype == torch.float64


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_the_continuous_loss_is_the_closed_form_whatever_lies_between_the_ends(exact_model, schedule):
    model = exact_model(gaussian_denoiser(), schedule)
    nodes, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(24))
    cells = torch.arange(16, dtype=torch.float64)[:, None]
    u = ((cells + (nodes + 1) / 2) / 16).flatten()
    loss = (expectation(continuous_diffusion, model, u) * (weights / 32).repeat(16)).sum()
    closed_form = model.denoiser.diffusion_loss(schedule.gamma_0, schedule.gamma_1)
    torch.testing.assert_close(loss, closed_form, rtol=1e-9, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("reverse", ["posterior", "forward"])
def test_twice_the_steps_never_cost_more_and_infinitely_many_the_continuous_loss(exact_model, schedule, reverse):
    model = exact_model(gaussian_denoiser(), schedule, reverse=reverse)
    losses = torch.stack([discrete_loss(model, 2**k) for k in range(13)]).detach()
    limit = model.denoiser.diffusion_loss(schedule.gamma_0, schedule.gamma_1).detach()
    assert bool((losses.diff() < 0).all())
    assert bool((losses > limit).all())
    torch.testing.assert_close(losses[-1], limit, rtol=2e-3, atol=0)
