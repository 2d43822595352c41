"""Variance worked out from a table of errors is the variance of drawn estimates, and the optimum has the least."""

import math

import pytest
import torch

from nelbo.diffusion.noise_schedule import BetaLinear, Cosine, Learned, Linear
from nelbo.diffusion.schedule_variance import optimal_schedule, variance
from nelbo.errors import NelboError
from nelbo.nets.closed_form import GaussianDenoiser

ENDS = (-6.0, 5.0)
GAMMAS = torch.linspace(*ENDS, 801, dtype=torch.float64)
SCHEDULES = {
    "linear": Linear(*ENDS),
    "cosine": Cosine(*ENDS),
    "beta_linear": BetaLinear(*ENDS),
    "learned": Learned(*ENDS, n_units=16).requires_grad_(False),
}
every = pytest.mark.parametrize("name", SCHEDULES)
N_DIMS = 4
TO_BPD = 1 / (N_DIMS * math.log(2))


def error(scale, gamma):
    """Returns smooth squared errors that differ between images and fall with gamma by orders of magnitude."""
    return scale * (0.02 + torch.sigmoid(-2 * (gamma + 2)))


@pytest.fixture(scope="module")
def scales():
    return torch.rand(50, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.fixture(scope="module")
def errors(scales):
    return error(scales, GAMMAS)


@every
def test_it_is_the_variance_of_drawn_estimates(name, scales, errors):
    schedule = SCHEDULES[name]
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    losses = 0.5 * TO_BPD * schedule.derivative(t) * error(torch.ones(1), schedule(t))  # of an image of scale 1
    mean, square, second = losses.mean(), losses.square().mean(), scales.square().mean()
    found = variance(schedule, GAMMAS, errors, N_DIMS)
    expected = second * square - (scales.mean() * mean).square()
    assert found.per_example == pytest.approx(expected.item(), rel=2e-3)
    times = scales.mean().square() * (square - mean.square())
    assert found.between_times == pytest.approx(times.item(), rel=2e-3)
    assert found.between_images == pytest.approx((scales.var(correction=0) * mean.square()).item(), rel=1e-3)
    assert found.per_batch(128) == pytest.approx((expected - times).item() / 128, rel=2e-3)


def test_no_schedule_does_better_than_the_optimum(errors):
    best = variance(optimal_schedule(GAMMAS, errors), GAMMAS, errors, N_DIMS).per_example
    mean = 0.5 * TO_BPD * torch.trapezoid(errors.mean(0), GAMMAS)
    least = 0.25 * TO_BPD**2 * torch.trapezoid(errors.square().mean(0).sqrt(), GAMMAS).square() - mean.square()
    assert best == pytest.approx(least.item(), rel=1e-2)
    for schedule in SCHEDULES.values():
        assert variance(schedule, GAMMAS, errors, N_DIMS).per_example > 1.5 * best


def test_the_optimum_of_a_batch_is_another_one(errors):
    noisy = errors.clone()
    noisy[::2, :400] *= 3  # Images differ more at low noise.
    batch, example = (optimal_schedule(GAMMAS, noisy, evenly_spread=even) for even in (True, False))
    assert variance(batch, GAMMAS, noisy, N_DIMS).per_batch(1) < variance(example, GAMMAS, noisy, N_DIMS).per_batch(1)
    assert variance(batch, GAMMAS, noisy, N_DIMS).per_example > variance(example, GAMMAS, noisy, N_DIMS).per_example


def test_the_optimum_has_the_density_of_the_root_mean_square(errors):
    schedule = optimal_schedule(GAMMAS, errors, n_points=4097)
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    product = schedule.derivative(t) * error(torch.ones(1), schedule(t))
    torch.testing.assert_close(product, product.mean().expand(50), rtol=1e-2, atol=0)
    assert (schedule.gamma_0.item(), schedule.gamma_1.item()) == ENDS


def test_variance_between_images_is_the_same_under_every_schedule(errors):
    shares = [variance(schedule, GAMMAS, errors, N_DIMS).between_images for schedule in SCHEDULES.values()]
    assert shares == pytest.approx([shares[0]] * len(shares), rel=1e-12)


def test_a_gaussian_denoiser_has_the_mean_that_it_says(errors):
    """The mean loss behind the variance is half the integral of the error: the closed form of Gaussian data."""
    denoiser = GaussianDenoiser(torch.zeros(1, 2, 2), torch.tensor([0.1, 0.5, 1.0, 2.0]))
    table = denoiser.expected_error(GAMMAS)[None]
    nats = 0.5 * torch.trapezoid(table[0], GAMMAS)
    loss = denoiser.diffusion_loss(*torch.tensor(ENDS, dtype=torch.float64))
    torch.testing.assert_close(nats, loss, rtol=1e-5, atol=0)
    assert variance(Linear(*ENDS), GAMMAS, table, N_DIMS).between_images == 0


def test_a_table_between_other_ends_is_refused(errors):
    with pytest.raises(NelboError, match="do not span"):
        variance(Linear(-6.0, 4.0), GAMMAS, errors, N_DIMS)
