"""The Gaussian entry: its divergence is that of two Gaussians, and what it draws has the mean and the spectrum."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, kl_divergence

from nelbo.diffusion.bound import prior_kl
from nelbo.diffusion.gaussian import alpha, sigma
from nelbo.diffusion.gaussian_entry import GaussianEntry, ImageMoments, shrunk
from nelbo.diffusion.spectral_basis import Basis
from nelbo.errors import NelboError

SHAPE = (3, 4, 8)


def orthonormal(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn((3, 3), dtype=torch.float64, generator=generator)).Q


def entry_of(seed, block=(4, 4)):
    generator = torch.Generator().manual_seed(seed)
    mean, scale = torch.randn((2, 3, *block), dtype=torch.float64, generator=generator)
    return GaussianEntry(Basis(orthonormal(seed), block), mean, torch.exp(scale))


def matrix_of(entry):
    """U as a matrix."""
    unit = torch.eye(96, dtype=torch.float64).reshape(96, *SHAPE)
    return entry.basis.forward(unit).reshape(96, 96).T


@given(st.integers(0, 50), st.floats(-6, 6))
def test_the_divergence_is_that_of_two_gaussians(seed, gamma):
    entry, level = entry_of(seed), torch.tensor(gamma, dtype=torch.float64)
    x = torch.rand((2, *SHAPE), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    u = matrix_of(entry)
    mean, variance = (entry.basis.spread(part, SHAPE).flatten() for part in (entry.mean, entry.variance))
    covariance = u.T @ torch.diag(alpha(level) ** 2 * variance + sigma(level) ** 2) @ u
    p = MultivariateNormal(alpha(level) * (u.T @ mean), covariance)
    expected = [
        kl_divergence(
            MultivariateNormal(alpha(level) * image.flatten(), sigma(level) ** 2 * torch.eye(96, dtype=torch.float64)),
            p,
        )
        for image in x
    ]
    torch.testing.assert_close(entry.kl(x, level), torch.stack(expected), rtol=1e-7, atol=1e-7)


def test_of_white_images_of_variance_one_it_is_the_usual_prior():
    basis = Basis(torch.eye(3, dtype=torch.float64), (4, 4))
    ones = torch.ones((3, 4, 4), dtype=torch.float64)
    x, level = torch.rand((2, *SHAPE), dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64)
    torch.testing.assert_close(GaussianEntry(basis, 0 * ones, ones).kl(x, level), prior_kl(x, level))


def test_the_expected_divergence_is_the_mean_over_images_of_that_spectrum():
    entry, level = entry_of(1), torch.tensor(0.4, dtype=torch.float64)
    noise = torch.randn((20_000, *SHAPE), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, variance = (entry.basis.spread(part, SHAPE) for part in (entry.mean, entry.variance))
    x = entry.basis.inverse(mean + variance.sqrt() * noise)
    measured = entry.kl(x, level)
    assert abs(measured.mean() - entry.expected_kl(level, 96)) < 4 * measured.std() / len(x) ** 0.5


def test_draws_have_the_mean_and_the_covariance():
    entry, gamma = entry_of(2), 0.7
    noise = torch.randn((40_000, *SHAPE), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    level = torch.tensor(gamma, dtype=torch.float64)
    y = entry.basis.forward(entry.draw(noise, gamma))
    mean, variance = (entry.basis.spread(part, SHAPE) for part in (entry.mean, entry.variance))
    torch.testing.assert_close(y.mean(0), alpha(level) * mean, rtol=0.05, atol=0.03)
    torch.testing.assert_close(y.var(0), alpha(level) ** 2 * variance + sigma(level) ** 2, rtol=0.05, atol=0)


def test_a_fit_of_many_images_is_their_mean_and_variance():
    truth = entry_of(3, (4, 8))
    noise = torch.randn((4_000, *SHAPE), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, variance = (truth.basis.spread(part, SHAPE) for part in (truth.mean, truth.variance))
    x = truth.basis.inverse(mean + variance.sqrt() * noise)
    found = ImageMoments.of(x).entry(truth.basis.colours)
    torch.testing.assert_close(found.mean, truth.mean, rtol=0.05, atol=0.1)
    torch.testing.assert_close(found.variance, truth.variance, rtol=0.15, atol=0.0)


@pytest.mark.parametrize("n", [1, 4])
def test_few_images_do_not_make_it_narrow(n):
    """On other images of the same kind the shrunk spectrum of few costs less than their own."""
    truth = entry_of(4, (4, 8))
    noise = torch.randn((n + 500, *SHAPE), dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    _, rows, columns = truth.variance.shape
    falling = 1 / (1 + torch.arange(rows)[:, None] ** 2 + torch.arange(columns) ** 2).double().expand(
        truth.variance.shape
    )
    x = truth.basis.inverse(truth.basis.spread(falling, SHAPE).sqrt() * noise)
    level = torch.tensor(-1.0, dtype=torch.float64)
    costs = [
        ImageMoments.of(x[:n]).entry(truth.basis.colours, n_prior).kl(x[n:], level).mean() for n_prior in (0.01, 8.0)
    ]
    assert costs[1] < costs[0]


def test_shrinking_keeps_the_mean_of_each_colour():
    variance = entry_of(6).variance
    torch.testing.assert_close(shrunk(variance, 4, 8.0).mean((1, 2)), variance.mean((1, 2)))


def test_moments_add_up():
    x = torch.rand((6, *SHAPE), dtype=torch.float64)
    one, other = ImageMoments.of(x).entry(), (ImageMoments.of(x[:2]) + ImageMoments.of(x[2:])).entry()
    torch.testing.assert_close(one.variance, other.variance)
    torch.testing.assert_close(one.mean, other.mean)


def test_images_of_another_shape_are_refused():
    with pytest.raises(NelboError, match="3 channels in blocks of 4 x 4"):
        entry_of(8).check_shape((1, 8, 8))
