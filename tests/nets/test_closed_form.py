"""Closed-form denoisers are what they claim to be, and with them the bound is the log-likelihood itself."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nelbo.diffusion.bound import Draws, bound, continuous_diffusion
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.draws import evaluation_draws
from nelbo.diffusion.gaussian import alpha, diffuse, sigma
from nelbo.diffusion.noise_schedule import Cosine, Linear, Table
from nelbo.nets.closed_form import GaussianDenoiser, MixtureDenoiser

SHAPE = (1, 2, 2)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_denoiser():
    root = normal(4, 4)
    return GaussianDenoiser(0.3 * normal(*SHAPE, seed=1), 0.1 * root @ root.T)


def mixture_denoiser():
    return MixtureDenoiser(0.5 * normal(5, *SHAPE), torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25]))


DENOISERS = {"gaussian": gaussian_denoiser(), "mixture": mixture_denoiser()}
SCHEDULES = {
    "linear": Linear(-16.0, 12.0),
    "cosine": Cosine(-16.0, 12.0),
    "table": Table([-16.0, -13.0, -7.0, -1.0, 5.0, 12.0]),
}


@pytest.mark.parametrize("denoiser", DENOISERS.values(), ids=DENOISERS.keys())
@given(st.floats(-8, 8))
def test_the_predicted_noise_is_the_score_of_the_latents_density(denoiser, gamma):
    gammas = torch.full((6,), gamma, dtype=torch.float64)
    z = normal(6, *SHAPE, seed=2).requires_grad_()
    (score,) = torch.autograd.grad(denoiser.log_density(z, gammas).sum(), z)
    expected = -sigma(gammas)[:, None, None, None] * score
    torch.testing.assert_close(denoiser(z, gammas), expected, rtol=1e-9, atol=1e-9)


def test_the_gaussians_densities_are_torchs():
    denoiser = gaussian_denoiser()
    root, x = normal(4, 4), normal(3, *SHAPE, seed=2)
    for gamma in (-math.inf, -2.0, 3.0):
        gammas = torch.full((3,), gamma, dtype=torch.float64)
        a, s = alpha(gammas[0]), sigma(gammas[0])
        covariance = a**2 * 0.1 * root @ root.T + s**2 * torch.eye(4, dtype=torch.float64)
        latents = torch.distributions.MultivariateNormal(a * 0.3 * normal(*SHAPE, seed=1).flatten(), covariance)
        torch.testing.assert_close(denoiser.log_density(x, gammas), latents.log_prob(x.flatten(1)))


def test_a_mixture_of_one_point_is_a_gaussian_without_variance():
    point, gammas, z = normal(*SHAPE), torch.tensor([-4.0, 0.0, 4.0]).double(), normal(3, *SHAPE, seed=1)
    one, other = MixtureDenoiser(point[None]), GaussianDenoiser(point, torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(one(z, gammas), other(z, gammas))
    torch.testing.assert_close(one.log_density(z, gammas), other.log_density(z, gammas))


def test_float32_latents_are_answered_in_float32():
    for denoiser in DENOISERS.values():
        z, gammas = normal(2, *SHAPE), torch.tensor([-13.3, 5.0], dtype=torch.float64)
        answer = denoiser(z.float(), gammas)
        assert answer.dtype == torch.float32
        torch.testing.assert_close(answer.double(), denoiser(z.float().double(), gammas), rtol=1e-6, atol=1e-6)


def test_no_denoiser_of_a_family_beats_the_exact_one():
    """Scaling or shifting the exact prediction only adds to the squared error."""
    denoiser, gammas = mixture_denoiser(), torch.full((50_000,), -1.0, dtype=torch.float64)
    chosen = torch.multinomial(denoiser.log_weights.exp(), 50_000, True, generator=torch.Generator().manual_seed(0))
    eps = normal(50_000, *SHAPE, seed=3)
    eps_hat = denoiser(diffuse(denoiser.points[chosen], eps, gammas), gammas)

    def error(prediction):
        return (eps - prediction).square().sum((1, 2, 3)).mean()

    others = [0.9 * eps_hat, 1.1 * eps_hat, eps_hat + 0.1, eps_hat - 0.1, eps_hat.roll(1, 0)]
    assert all(error(other) > error(eps_hat) for other in others)


# One pixel: the bound's expectations by quadrature over time and noise, without a draw

PIXELS = [3, 100, 101, 250]
WEIGHTS = torch.tensor([0.4, 0.3, 0.1, 0.2], dtype=torch.float64)


def one_pixel_denoiser():
    return MixtureDenoiser(to_unit(torch.tensor(PIXELS)).reshape(-1, 1, 1, 1), WEIGHTS)


def expected_bound(model, value, times, n_steps=None):
    """Returns the expectation of the bound's three terms for a one-pixel image, by the midpoint rule.

    Args:
        model: The model.
        value: The pixel.
        times: The ends of the cells of the rule over time, from 0 to 1.
        n_steps: As for the bound.
    """
    eps = torch.linspace(-8, 8, 241, dtype=torch.float64)
    density = torch.exp(-0.5 * eps.square())
    u, noise = torch.meshgrid((times[:-1] + times[1:]) / 2, eps, indexing="ij")
    weights = (times.diff()[:, None] * density / density.sum()).flatten()
    noise = noise.reshape(-1, 1, 1, 1)
    images = torch.full(noise.shape, value, dtype=torch.uint8)
    terms = bound(model.given(), images, Draws(noise, u.flatten(), noise), n_steps)
    return torch.stack([(weights * term).sum() for term in (terms.prior, terms.reconstruction, terms.diffusion)])


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("decoder", ["softmax", "discretised_gaussian"])
def test_the_continuous_bound_of_every_image_is_its_code_length_whatever_the_schedule(exact_model, schedule, decoder):
    model = exact_model(one_pixel_denoiser(), schedule, decoder)
    times = schedule.inverse(torch.linspace(-16, 12, 501, dtype=torch.float64))
    for value, weight in zip(PIXELS, WEIGHTS, strict=True):
        prior, reconstruction, diffusion = expected_bound(model, value, times)
        assert prior < 1e-5
        assert reconstruction < 1e-2
        torch.testing.assert_close(diffusion, -weight.log(), rtol=0, atol=2e-3)


def test_the_bound_of_t_steps_falls_to_the_entropy(exact_model):
    model = exact_model(one_pixel_denoiser(), Linear(-16.0, 12.0))
    entropy = -(WEIGHTS * WEIGHTS.log()).sum()

    def mean_bound(n_steps):
        times = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
        totals = [expected_bound(model, value, times, n_steps).sum() for value in PIXELS]
        return (WEIGHTS * torch.stack(totals)).sum()

    bounds = torch.stack([mean_bound(n_steps) for n_steps in (2, 4, 8, 16, 32, 64, 128, 256)])
    assert bool((bounds.diff() < 0).all())
    assert bool((bounds > entropy).all())
    excess = bounds - entropy
    torch.testing.assert_close(excess[-2] / excess[-1], torch.tensor(2.0).double(), rtol=0.1, atol=0)


# Several pixels: the bound as it is used, by Monte Carlo

IMAGES = torch.tensor([[0, 10, 255, 4], [0, 10, 255, 6], [200, 10, 90, 4], [1, 2, 3, 4], [255, 255, 255, 255]])
IMAGE_WEIGHTS = torch.tensor([0.3, 0.2, 0.2, 0.1, 0.2], dtype=torch.float64)
many_draws = cache(lambda: evaluation_draws(range(20_000), SHAPE, seed=0))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_the_estimated_bound_of_images_is_their_code_length_within_its_error(exact_model, schedule):
    images = IMAGES.reshape(-1, *SHAPE).to(torch.uint8)
    model = exact_model(MixtureDenoiser(to_unit(images), IMAGE_WEIGHTS), schedule)
    which = torch.arange(20_000) % len(images)
    total = bound(model.given(), images[which], many_draws()).total
    for image, weight in enumerate(IMAGE_WEIGHTS):
        found = total[which == image]
        error = found.std().item() / math.sqrt(len(found))
        assert error < 0.5
        torch.testing.assert_close(found.mean(), -weight.log(), rtol=0, atol=4 * error + 1e-3)


def test_the_gaussians_expected_error_and_loss_agree_with_draws(exact_model):
    denoiser, schedule = gaussian_denoiser(), Linear(-5.0, 4.0)
    model = exact_model(denoiser, schedule)
    n = 40_000
    x = denoiser.mean + (normal(n, 4, seed=5) * denoiser.variances.sqrt() @ denoiser.axes.T).reshape(n, *SHAPE)
    u = torch.arange(n, dtype=torch.float64) / n
    nats = continuous_diffusion(model.given(), x, u, normal(n, *SHAPE, seed=6))
    loss = denoiser.diffusion_loss(schedule.gamma_0, schedule.gamma_1)
    torch.testing.assert_close(nats.mean(), loss, rtol=0, atol=4 * nats.std().item() / math.sqrt(n))
    gamma = torch.linspace(-5, 4, 20_001, dtype=torch.float64)
    integral = np.trapezoid(denoiser.expected_error(gamma).numpy() / 2, gamma.numpy())
    torch.testing.assert_close(loss.item(), float(integral), rtol=1e-6, atol=0)


def test_the_gaussians_loss_and_prior_are_the_information_in_the_cleanest_latent(exact_model):
    r"""E[prior + diffusion] = I(x; z_0) + KL(q(z_1) || p(z_1)): what a perfect chain pays to name z_0."""
    denoiser = gaussian_denoiser()
    gamma_0, gamma_1 = torch.tensor(-5.0).double(), torch.tensor(30.0).double()
    noise = sigma(gamma_0).square()
    information = 0.5 * torch.log((alpha(gamma_0).square() * denoiser.variances + noise) / noise).sum()
    torch.testing.assert_close(denoiser.diffusion_loss(gamma_0, gamma_1), information, rtol=1e-10, atol=0)
