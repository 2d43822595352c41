"""Each weight is what the original recipe implies; w = 1 is the bound; monotone ones are running maxima."""

import math

import numpy as np
import pytest
import torch

from nelbo.diffusion.bound import continuous_diffusion
from nelbo.diffusion.noise_schedule import Cosine, Linear
from nelbo.diffusion.weighting import WEIGHTINGS, weighted_integrand
from nelbo.nets.closed_form import GaussianDenoiser

GAMMAS = torch.linspace(-14, 8, 2001, dtype=torch.float64)
SHAPE = (1, 2, 2)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_weight_is_positive_finite_and_one_for_each_gamma(name):
    weight = WEIGHTINGS[name](GAMMAS)
    assert weight.shape == GAMMAS.shape
    assert weight.dtype == torch.float64
    assert bool((weight > 0).all() and weight.isfinite().all())


# What a recipe's loss is, computed as its paper states it: half of it is our weighted loss, whatever the error


def error(gamma):
    """Returns some model's E||eps - eps_hat||^2."""
    return 3 + torch.tanh(gamma / 3) + torch.sin(gamma)


def weighted(name, low=-40.0, high=40.0):
    gamma = torch.linspace(low, high, 800_001, dtype=torch.float64)
    return float(np.trapezoid(0.5 * WEIGHTINGS[name](gamma) * error(gamma), gamma))


def over_time(gamma_of_t, loss):
    """Returns the mean over t of a loss, t uniform, by the midpoint rule."""
    t = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    return 0.5 * loss(gamma_of_t(t)).mean().item()


def linear_betas(t):
    return torch.log(torch.expm1(0.1 * t + 0.5 * (20.0 - 0.1) * t**2))


def cosine_schedule(t):
    return 2 * torch.log(torch.tan(math.pi / 2 * t))


def test_ddpm_is_the_mean_squared_error_of_the_noise_under_linear_betas():
    ends = linear_betas(torch.tensor([1e-9, 1.0], dtype=torch.float64)).tolist()
    assert weighted("ddpm", ends[0], ends[1]) == pytest.approx(over_time(linear_betas, error), rel=1e-5)


def test_cosine_is_the_same_under_the_cosine_schedule():
    assert weighted("cosine") == pytest.approx(over_time(cosine_schedule, error), rel=1e-5)


def test_min_snr_is_the_error_of_the_image_times_the_clamped_snr():
    def loss(gamma):
        error_of_image = torch.exp(gamma) * error(gamma)  # ||x - x_hat||^2 = ||eps - eps_hat||^2 / SNR
        return torch.exp(-gamma).clamp(max=5.0) * error_of_image

    assert weighted("min_snr") == pytest.approx(over_time(cosine_schedule, loss), rel=1e-5)


def test_edm_is_its_scaled_error_under_its_lognormal_noise():
    log_sigma = torch.linspace(-1.2 - 12, -1.2 + 18, 800_001, dtype=torch.float64)
    density = torch.distributions.Normal(-1.2, 1.2).log_prob(log_sigma).exp()
    sigma = log_sigma.exp()
    scale = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2
    error_of_image = sigma**2 * error(2 * log_sigma)
    loss = 0.5 * float(np.trapezoid(density * scale * error_of_image, log_sigma))
    assert weighted("edm") == pytest.approx(loss, rel=1e-6)


def test_the_sigmoid_weight_at_its_middle():
    torch.testing.assert_close(WEIGHTINGS["sigmoid"](torch.tensor([-2.0])), torch.tensor([0.5]))


@pytest.mark.parametrize("name", [name for name in WEIGHTINGS if name.endswith("_monotone")])
def test_a_monotone_weight_is_the_running_maximum_of_its_namesake(name):
    plain, monotone = WEIGHTINGS[name.removesuffix("_monotone")](GAMMAS), WEIGHTINGS[name](GAMMAS)
    torch.testing.assert_close(monotone, plain.cummax(0).values, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["elbo", "sigmoid", *(name for name in WEIGHTINGS if name.endswith("_monotone"))])
def test_weights_called_monotone_never_fall(name):
    assert bool((WEIGHTINGS[name](GAMMAS).diff() >= 0).all())


# The loss


@pytest.mark.parametrize("schedule", [Linear(-5.0, 4.0), Cosine(-5.0, 4.0)])
def test_with_weight_one_the_loss_is_the_bounds_diffusion_term(exact_model, schedule):
    root = normal(4, 4)
    model = exact_model(GaussianDenoiser(normal(*SHAPE, seed=1), root @ root.T), schedule)
    u, x, eps = torch.arange(8, dtype=torch.float64) / 8, normal(8, *SHAPE, seed=2), normal(8, *SHAPE, seed=3)
    integrand = weighted_integrand(model.given(), x, eps, schedule(u), "elbo")
    expected = continuous_diffusion(model.given(), x, u, eps)
    torch.testing.assert_close(schedule.derivative(u) * integrand, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_the_weighted_loss_does_not_depend_on_the_schedule_between_its_ends(exact_model, name):
    denoiser = GaussianDenoiser(torch.zeros(SHAPE), torch.tensor([0.1, 0.3, 0.5, 2.0], dtype=torch.float64))
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    losses = [
        (0.5 * WEIGHTINGS[name](s(u)) * denoiser.expected_error(s(u)) * s.derivative(u)).mean()
        for s in (Linear(-5.0, 4.0), Cosine(-5.0, 4.0))
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
