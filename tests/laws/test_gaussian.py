"""The forward process is one Gaussian seen from three sides: marginal, transition and posterior agree."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nelbo.diffusion.gaussian import alpha, denoised, diffuse, noise_of, posterior, sigma, transition

ZERO, ONE = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def increasing(n):
    """Lists of n gammas, a step of at least 1e-3 apart."""
    gammas = st.lists(st.floats(-30, 30), min_size=n, max_size=n).map(sorted)
    return gammas.map(lambda values: [double(value + 1e-3 * i) for i, value in enumerate(values)])


def posterior_coefficients(gamma_s, gamma_t):
    """Returns what the posterior's mean takes of z_t and of x, and its standard deviation."""
    of_z, std = posterior(ONE, ZERO, gamma_s, gamma_t)
    of_x, _ = posterior(ZERO, ONE, gamma_s, gamma_t)
    return of_z[0], of_x[0], std


@given(st.floats(-700, 700))
def test_signal_and_noise_have_unit_variance_together_at_any_gamma(gamma):
    total = alpha(double(gamma)).square() + sigma(double(gamma)).square()
    torch.testing.assert_close(total, double(1.0), rtol=0, atol=1e-15)


@given(st.floats(-20, 20))
def test_the_log_snr_of_a_latent_is_minus_gamma(gamma):
    log_snr = 2 * (alpha(double(gamma)).log() - sigma(double(gamma)).log())
    torch.testing.assert_close(log_snr, double(-gamma), rtol=1e-13, atol=1e-13)


@given(st.floats(-20, 20))
def test_float32_keeps_the_digits_of_both_scales(gamma):
    single = torch.tensor([gamma], dtype=torch.float32)
    for scale in (alpha, sigma):
        torch.testing.assert_close(scale(single).double(), scale(single.double()), rtol=2e-6, atol=0)


@given(increasing(2))
def test_diffusing_to_s_and_then_to_t_has_the_marginal_of_t(gammas):
    gamma_s, gamma_t = gammas
    alpha_ts, sigma_ts = transition(gamma_s, gamma_t)
    torch.testing.assert_close(alpha_ts * alpha(gamma_s), alpha(gamma_t), rtol=1e-13, atol=0)
    variance = (alpha_ts * sigma(gamma_s)).square() + sigma_ts.square()
    torch.testing.assert_close(variance, sigma(gamma_t).square(), rtol=1e-13, atol=0)


@given(increasing(3))
def test_transitions_compose(gammas):
    (alpha_sr, sigma_sr), (alpha_ts, sigma_ts) = transition(*gammas[:2]), transition(*gammas[1:])
    alpha_tr, sigma_tr = transition(gammas[0], gammas[2])
    torch.testing.assert_close(alpha_ts * alpha_sr, alpha_tr, rtol=1e-13, atol=0)
    variance = (alpha_ts * sigma_sr).square() + sigma_ts.square()
    torch.testing.assert_close(variance, sigma_tr.square(), rtol=1e-12, atol=0)


@given(increasing(2))
def test_diffusing_to_t_and_then_taking_the_posterior_has_the_marginal_of_s(gammas):
    gamma_s, gamma_t = gammas
    of_z, of_x, std = posterior_coefficients(gamma_s, gamma_t)
    torch.testing.assert_close(of_z * alpha(gamma_t) + of_x, alpha(gamma_s), rtol=1e-13, atol=0)
    variance = (of_z * sigma(gamma_t)).square() + std.square()
    torch.testing.assert_close(variance, sigma(gamma_s).square(), rtol=1e-13, atol=0)


@given(increasing(2))
def test_the_posterior_is_bayes_rule(gammas):
    """Precisions add up, and its mean weighs its two sources by them."""
    gamma_s, gamma_t = gammas
    alpha_ts, sigma_ts = transition(gamma_s, gamma_t)
    of_z, of_x, std = posterior_coefficients(gamma_s, gamma_t)
    precision = 1 / sigma(gamma_s).square() + (alpha_ts / sigma_ts).square()
    torch.testing.assert_close(1 / std.square(), precision, rtol=1e-12, atol=0)
    torch.testing.assert_close(of_z, std.square() * alpha_ts / sigma_ts.square(), rtol=1e-12, atol=0)
    torch.testing.assert_close(of_x, std.square() * alpha(gamma_s) / sigma(gamma_s).square(), rtol=1e-12, atol=0)


@given(st.floats(-30, 30))
def test_nothing_happens_between_a_gamma_and_itself(gamma):
    torch.testing.assert_close(transition(double(gamma), double(gamma)), (double(1.0), double(0.0)))
    of_z, of_x, std = posterior_coefficients(double(gamma), double(gamma))
    torch.testing.assert_close((of_z, of_x, std), (double(1.0), double(0.0), double(0.0)))


@pytest.mark.parametrize("shape", [(), (4,), (3, 2, 5)])
@given(st.floats(-12, 12))
def test_a_latent_gives_back_the_image_or_the_noise_when_told_the_other(shape, gamma):
    rng = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(2, *shape, generator=rng, dtype=torch.float64) for _ in range(2))
    gammas = double(gamma, gamma + 1)
    z = diffuse(x, eps, gammas)
    torch.testing.assert_close(denoised(z, eps, gammas), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(noise_of(z, x, gammas), eps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(noise_of(z, denoised(z, x, gammas), gammas), x, rtol=1e-9, atol=1e-9)


def test_each_image_has_its_own_gamma():
    x = torch.ones(2, 1, 2, 2)
    z = diffuse(x, torch.zeros_like(x), double(-1.0, 2.0))
    torch.testing.assert_close(z[:, 0, 0, 0].double(), alpha(double(-1.0, 2.0)), rtol=1e-6, atol=0)
    assert z.dtype == torch.float32
