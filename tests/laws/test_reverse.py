"""Every reverse kernel costs what the divergence between the two Gaussians says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from nelbo.gaussian import diffuse, over_image, posterior
from nelbo.reverse import KERNELS

every = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
pairs = st.tuples(st.floats(-15, 8), st.floats(0.01, 10))


def situation(pair):
    """Returns an image, its noise, a prediction of the noise, and two gammas, three of each."""
    rng = torch.Generator().manual_seed(0)
    x, eps, mistake = (torch.randn(3, 2, 4, 4, generator=rng, dtype=torch.float64) for _ in range(3))
    gamma_s = pair[0] + torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
    return x, eps, eps + 0.3 * mistake, gamma_s, gamma_s + pair[1]


@every
@given(pairs)
def test_a_step_costs_the_divergence_from_the_truth(kernel, pair):
    x, eps, eps_hat, gamma_s, gamma_t = situation(pair)
    z_t = diffuse(x, eps, gamma_t)
    gaussians = []
    for mean, std in (posterior(z_t, x, gamma_s, gamma_t), kernel.mean_std(z_t, eps_hat, gamma_s, gamma_t)):
        gaussians.append(Normal(mean, over_image(std, mean).expand_as(mean)))
    divergence = kl_divergence(*gaussians).flatten(1).sum(1)
    error = (eps - eps_hat).square().flatten(1).sum(1)
    torch.testing.assert_close(kernel.step_kl(error, gamma_s, gamma_t), divergence, rtol=1e-7, atol=0)


@every
@given(pairs)
def test_knowing_the_noise_makes_the_step_free_and_exact(kernel, pair):
    x, eps, _, gamma_s, gamma_t = situation(pair)
    z_t = diffuse(x, eps, gamma_t)
    found = kernel.mean_std(z_t, eps, gamma_s, gamma_t)
    torch.testing.assert_close(found, posterior(z_t, x, gamma_s, gamma_t), rtol=1e-9, atol=1e-12)
    nothing = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(kernel.step_kl(nothing, gamma_s, gamma_t), nothing, rtol=0, atol=1e-12)
