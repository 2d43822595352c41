"""Every reverse kernel costs what the divergence between the two Gaussians says, and draws what it claims."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from nelbo.diffusion.error_statistics import ErrorStatistics
from nelbo.diffusion.gaussian import alpha, denoised, diffuse, over_image, posterior, sigma, transition
from nelbo.diffusion.reverse import FIXED_KERNELS, KERNELS, Analytic, Spectral
from nelbo.diffusion.spectral_basis import Basis, plain_basis, principal_axes

SHAPE = (3, 4, 2)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_spectral():
    root = normal(3, 3, seed=5)
    return Spectral(Basis(principal_axes(root @ root.T), plain_basis(SHAPE).block), normal(*SHAPE, seed=6).square())


def make(name):
    spectral = make_spectral()
    colours = spectral.basis.colours
    covariance = torch.einsum("ka,kd,khw->adhw", colours, colours, spectral.spectrum)
    errors = ErrorStatistics(SHAPE, torch.tensor(0.37).double(), covariance, spectral.basis, None)
    return KERNELS[name].of_errors(errors)


every = pytest.mark.parametrize("name", KERNELS)
pairs = st.tuples(st.floats(-15, 8), st.floats(0.01, 10))


def situation(pair):
    """Returns an image, its noise, a prediction of the noise, a variance range, and two gammas; three of each."""
    x, eps, mistake = (normal(3, *SHAPE, seed=seed) for seed in range(3))
    gamma_s = pair[0] + torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
    nu = torch.sigmoid(normal(3, *SHAPE, seed=4))
    return x, eps, eps + 0.3 * mistake, nu, gamma_s, gamma_s + pair[1]


def mean_and_variances(kernel, z_t, eps_hat, nu, gamma_s, gamma_t):
    """Returns a kernel's mean and its variances, both in the basis in which it is diagonal, from its definition."""
    mean, std = posterior(z_t, denoised(z_t, eps_hat, gamma_t), gamma_s, gamma_t)
    ratio = torch.exp(kernel.log_ratio(gamma_s, gamma_t, nu))
    return kernel.forward(mean), (over_image(std, mean).square() * ratio).expand_as(mean)


@every
@given(pairs)
def test_a_step_costs_the_divergence_from_the_truth(name, pair):
    kernel = make(name)
    x, eps, eps_hat, nu, gamma_s, gamma_t = situation(pair)
    z_t = diffuse(x, eps, gamma_t)
    true_mean, true_std = posterior(z_t, x, gamma_s, gamma_t)
    mean, variance = mean_and_variances(kernel, z_t, eps_hat, nu, gamma_s, gamma_t)
    truth = Normal(kernel.forward(true_mean), over_image(true_std, mean).expand_as(mean))
    divergence = kl_divergence(truth, Normal(mean, variance.sqrt())).flatten(1).sum(1)
    torch.testing.assert_close(kernel.step_kl(eps - eps_hat, gamma_s, gamma_t, nu), divergence, rtol=1e-7, atol=1e-9)


@every
def test_a_draws_moments_are_the_kernels(name):
    """The map from noise to z_s is affine: its columns give the covariance exactly, without drawing."""
    kernel = make(name)
    x, eps, eps_hat, nu, gamma_s, gamma_t = situation((-4.0, 2.0))
    first = [tensor[:1] for tensor in (diffuse(x, eps, gamma_t), eps_hat, gamma_s, gamma_t, nu)]
    z_t, eps_hat, gamma_s, gamma_t, nu = first
    d = z_t.numel()
    centre = kernel.step(z_t, eps_hat, gamma_s, gamma_t, torch.zeros_like(z_t), nu)
    units = torch.eye(d, dtype=torch.float64).reshape(d, 1, *SHAPE)
    columns = torch.stack([kernel.step(z_t, eps_hat, gamma_s, gamma_t, unit, nu) - centre for unit in units])
    mean, variance = mean_and_variances(kernel, z_t, eps_hat, nu, gamma_s, gamma_t)
    torch.testing.assert_close(kernel.forward(centre), mean, rtol=1e-9, atol=1e-12)
    covariance = columns.flatten(1).T @ columns.flatten(1)
    rows = torch.stack([kernel.inverse(unit) for unit in units]).flatten(1)  # U^T, a column each
    torch.testing.assert_close(covariance, rows.T @ torch.diag(variance.flatten()) @ rows, rtol=1e-9, atol=1e-12)


@every
def test_the_closed_form_is_the_monte_carlo_divergence(name):
    """E_q[log q - log p] over draws of the truth."""
    kernel = make(name)
    x, eps, eps_hat, nu, gamma_s, gamma_t = situation((-4.0, 1.0))
    z_t = diffuse(x, eps, gamma_t)
    true_mean, true_std = posterior(z_t, x, gamma_s, gamma_t)
    mean, variance = mean_and_variances(kernel, z_t, eps_hat, nu, gamma_s, gamma_t)
    q = Normal(kernel.forward(true_mean), over_image(true_std, mean).expand_as(mean))
    p = Normal(mean, variance.sqrt())
    draws = q.mean + q.stddev * normal(4000, *mean.shape, seed=9)
    ratios = (q.log_prob(draws) - p.log_prob(draws)).flatten(2).sum(2)
    closed = kernel.step_kl(eps - eps_hat, gamma_s, gamma_t, nu)
    error = ratios.std(0) / len(draws) ** 0.5
    assert bool(((ratios.mean(0) - closed).abs() < 4 * error).all())


@given(pairs)
def test_fixed_large_is_the_variance_of_the_forward_step(pair):
    *_, gamma_s, gamma_t = situation(pair)
    _, std = posterior(torch.zeros(3, *SHAPE), torch.zeros(3, *SHAPE), gamma_s, gamma_t)
    ratio = torch.exp(FIXED_KERNELS["forward"].log_ratio(gamma_s, gamma_t, None)).flatten()
    torch.testing.assert_close(std.square() * ratio, transition(gamma_s, gamma_t)[1].square(), rtol=1e-9, atol=0)


@given(pairs)
def test_the_learned_range_runs_from_beta_tilde_to_beta(pair):
    *_, gamma_s, gamma_t = situation(pair)
    kernel, ones = FIXED_KERNELS["learned-range"], torch.ones(3, *SHAPE, dtype=torch.float64)
    for nu, other in ((0 * ones, "posterior"), (ones, "forward")):
        expected = FIXED_KERNELS[other].log_ratio(gamma_s, gamma_t, None)
        torch.testing.assert_close(kernel.log_ratio(gamma_s, gamma_t, nu), expected.expand_as(nu))


def test_knowing_the_noise_makes_the_vdm_step_free():
    _, eps, *_, gamma_s, gamma_t = situation((-3.0, 1.0))
    cost = FIXED_KERNELS["posterior"].step_kl(torch.zeros_like(eps), gamma_s, gamma_t)
    torch.testing.assert_close(cost, torch.zeros(3, dtype=torch.float64), rtol=0, atol=0)


@given(pairs)
def test_no_single_variance_is_better_than_the_analytic_and_none_per_axis_than_the_spectral(pair):
    """Costs averaged over mistakes with known second moments, which signs give exactly."""
    *_, gamma_s, gamma_t = situation(pair)
    one_s, one_t = gamma_s[:1], gamma_t[:1]
    spectral = make_spectral()
    mistake = spectral.inverse(spectral.spectrum.sqrt()[None])  # Its coordinates' squares are the spectrum.
    m = mistake.square().mean().item()
    costs = {
        "posterior": make("posterior").step_kl(mistake, one_s, one_t),
        "forward": make("forward").step_kl(mistake, one_s, one_t),
        "analytic": Analytic(m).step_kl(mistake, one_s, one_t),
        "spectral": spectral.step_kl(mistake, one_s, one_t),
    }
    assert costs["spectral"] <= costs["analytic"] <= min(costs["posterior"], costs["forward"]) + 1e-12
    for factor in (0.9, 1.1):
        assert Analytic(m * factor).step_kl(mistake, one_s, one_t) >= costs["analytic"]
        perturbed = Spectral(spectral.basis, spectral.spectrum * factor)
        assert perturbed.step_kl(mistake, one_s, one_t) >= costs["spectral"]


def test_with_the_exact_spectrum_the_spectral_kernel_is_the_true_reverse_of_gaussian_data():
    """For x ~ N(0, U^T diag(v) U), p(z_s | z_t) = q(z_s | z_t) exactly: the analytic limit of one step."""
    spectral = make_spectral()
    variances = 0.2 * normal(*SHAPE, seed=8).square()
    gamma_s, gamma_t = torch.tensor([-3.0]).double(), torch.tensor([-1.0]).double()
    a_s, s_s, a_t, s_t = (f(g)[0] for g in (gamma_s, gamma_t) for f in (alpha, sigma))
    total_s, total_t = a_s**2 * variances + s_s**2, a_t**2 * variances + s_t**2
    mistakes = a_t**2 * variances / total_t  # E (eps - eps_hat)^2 of the exact denoiser.
    kernel = Spectral(spectral.basis, mistakes)
    alpha_ts, std_ts = transition(gamma_s, gamma_t)
    gain = total_s * alpha_ts / (alpha_ts**2 * total_s + std_ts**2)
    true = MultivariateNormal(torch.zeros(24).double(), torch.diag((total_s - gain * alpha_ts * total_s).flatten()))
    _, std = posterior(torch.zeros(1, *SHAPE), torch.zeros(1, *SHAPE), gamma_s, gamma_t)
    variance = std.double().square() * torch.exp(kernel.log_ratio(gamma_s, gamma_t, None))
    torch.testing.assert_close(variance.flatten(), true.variance, rtol=1e-9, atol=0)
