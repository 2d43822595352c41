"""VP, VE and sub-VP are one process up to a factor: same posteriors, same bound, same samples after rescaling.

The package is variance preserving. Here every specification of signal and noise is written out from the definitions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from nelbo.data import open_images
from nelbo.diffusion import gaussian
from nelbo.diffusion.bound import bound, continuous_diffusion
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.draws import evaluation_draws
from nelbo.diffusion.gaussian import over_image
from nelbo.diffusion.noise_schedule import Cosine, Linear, Table
from nelbo.evaluation import standard_error
from nelbo.models.folder import load
from nelbo.nets.closed_form import GaussianDenoiser, MixtureDenoiser
from nelbo.runtime.bundled import bundled_images, bundled_models

SHAPE = (1, 2, 2)


@dataclass(frozen=True)
class Specification:
    """The scales of signal and noise at each gamma; the latents are those of the package times a factor."""

    alpha: Callable
    sigma: Callable

    def factor(self, gamma, image):
        return over_image(self.alpha(gamma) / gaussian.alpha(gamma), image)

    def diffuse(self, x, eps, gamma):
        return over_image(self.alpha(gamma), x) * x + over_image(self.sigma(gamma), x) * eps

    def denoised(self, z, eps_hat, gamma):
        return (z - over_image(self.sigma(gamma), z) * eps_hat) / over_image(self.alpha(gamma), z)

    def transition(self, s, t):
        """Returns alpha_ts and sigma_ts, with 1 - SNR(t)/SNR(s) as expm1: the difference of squares cancels."""
        return self.alpha(t) / self.alpha(s), self.sigma(t) * torch.sqrt(-torch.expm1(s - t))

    def posterior(self, z_t, x, s, t):
        """Returns the mean and the standard deviation of q(z_s | z_t, x), by Bayes' rule."""
        alpha_ts, sigma_ts = self.transition(s, t)
        of_z = alpha_ts * (self.sigma(s) / self.sigma(t)).square()
        of_x = self.alpha(s) * (sigma_ts / self.sigma(t)).square()
        return over_image(of_z, z_t) * z_t + over_image(of_x, x) * x, sigma_ts * self.sigma(s) / self.sigma(t)


def sub_vp_alpha(gamma):
    return torch.exp(-torch.asinh(0.5 * torch.exp(0.5 * gamma)))


SPECIFICATIONS = {  # With the names of Song et al. (2021), section 3.4. https://arxiv.org/abs/2011.13456
    "vp": Specification(lambda gamma: torch.sigmoid(-gamma).sqrt(), lambda gamma: torch.sigmoid(gamma).sqrt()),
    "ve": Specification(torch.ones_like, lambda gamma: torch.exp(0.5 * gamma)),
    "sub_vp": Specification(sub_vp_alpha, lambda gamma: sub_vp_alpha(gamma) * torch.exp(0.5 * gamma)),
}
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
    torch.testing.assert_close(spec.sigma(g) / spec.alpha(g), torch.exp(g / 2), rtol=1e-12, atol=0)


@given(gamma=gammas)
def test_each_specification_is_what_its_name_says(gamma):
    g, one = double(gamma), torch.ones(1).double()
    a, s = ({name: getattr(spec, of)(g) for name, spec in SPECIFICATIONS.items()} for of in ("alpha", "sigma"))
    torch.testing.assert_close(a["vp"].square() + s["vp"].square(), one, rtol=1e-12, atol=0)
    torch.testing.assert_close(a["ve"], one, rtol=0, atol=0)
    torch.testing.assert_close(a["sub_vp"].square() + s["sub_vp"], one, rtol=1e-12, atol=0)


@every
def test_latents_and_predictions_are_the_packages_rescaled(spec):
    g, x, eps = double(-13.3, 0.3, 5.0), normal(3, *SHAPE, seed=1), normal(3, *SHAPE, seed=2)
    latents = spec.diffuse(x, eps, g)
    torch.testing.assert_close(spec.factor(g, x) * gaussian.diffuse(x, eps, g), latents, rtol=1e-12, atol=0)
    torch.testing.assert_close(gaussian.denoised(latents / spec.factor(g, x), eps, g), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gaussian.noise_of(latents / spec.factor(g, x), x, g), eps, rtol=1e-9, atol=1e-9)


@every
@given(gamma_s=gammas, step=st.floats(1e-3, 10))
def test_transition_and_posterior_are_the_packages_rescaled(spec, gamma_s, step):
    s, t = double(gamma_s), double(gamma_s + step)
    z_t, x = normal(1, *SHAPE), normal(1, *SHAPE, seed=1)
    mean, std = spec.posterior(spec.factor(t, z_t) * z_t, x, s, t)
    mean_vp, std_vp = gaussian.posterior(z_t, x, s, t)
    torch.testing.assert_close(mean, spec.factor(s, z_t) * mean_vp, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(std / spec.alpha(s), std_vp / gaussian.alpha(s), rtol=1e-9, atol=0)
    scale, noise = spec.transition(s, t)
    scale_vp, noise_vp = gaussian.transition(s, t)
    torch.testing.assert_close(scale * spec.alpha(s) / spec.alpha(t), scale_vp * gaussian.alpha(s) / gaussian.alpha(t))
    torch.testing.assert_close(noise / spec.alpha(t), noise_vp / gaussian.alpha(t), rtol=1e-9, atol=0)
    total = (scale * spec.sigma(s)).square() + noise.square()
    torch.testing.assert_close(total.sqrt(), spec.sigma(t), rtol=1e-9, atol=0)


# The bound and the samples of a model


def bound_in(spec, model, images, draws, n_steps):
    """Returns the three terms of the bound in nats, of latents scaled by a specification, from the definitions."""
    x, ends = to_unit(images), [model.noise_schedule.gamma_0, model.noise_schedule.gamma_1]
    first, last = (end.expand(len(x)) for end in ends)
    prior_std = spec.factor(last, x)  # The prior is that of the rescaled latents.
    truth = Normal(over_image(spec.alpha(last), x) * x, over_image(spec.sigma(last), x).expand_as(x))
    prior = kl_divergence(truth, Normal(0.0, prior_std.expand_as(x))).flatten(1).sum(1, dtype=torch.float64)
    z_0 = spec.diffuse(x, draws.eps_0, first) / spec.factor(first, x)
    reconstruction = -model.decoder.log_likelihood(images, z_0, ends[0])
    return prior, reconstruction, diffusion_in(spec, model, x, draws, n_steps)


def diffusion_in(spec, model, x, draws, n_steps):
    step = torch.floor(draws.u * n_steps) + 1 if n_steps else None
    gamma = model.noise_schedule(draws.u if step is None else step / n_steps)
    z = spec.diffuse(x, draws.eps_t, gamma)
    eps_hat, _ = model.predict(z / spec.factor(gamma, z), gamma)
    if step is None:
        square = (draws.eps_t - eps_hat).square().flatten(1).sum(1, dtype=torch.float64)
        return 0.5 * model.noise_schedule.derivative(draws.u) * square
    lower = model.noise_schedule((step - 1) / n_steps)
    (mean, std), (guess, _) = (
        spec.posterior(z.double(), image.double(), lower, gamma) for image in (x, spec.denoised(z, eps_hat, gamma))
    )
    std = over_image(std, mean).expand_as(mean)
    return n_steps * kl_divergence(Normal(mean, std), Normal(guess, std)).flatten(1).sum(1)


IMAGES = torch.tensor([[0, 10, 255, 4], [0, 10, 255, 6], [200, 10, 90, 4]], dtype=torch.uint8).reshape(-1, *SHAPE)


@every
@pytest.mark.parametrize("n_steps", [None, 7])
def test_the_bound_of_an_exact_denoiser_is_the_same(exact_model, spec, n_steps):
    model = exact_model(MixtureDenoiser(to_unit(IMAGES)), Linear(-13.3, 5.0))
    draws = evaluation_draws(range(3), SHAPE, seed=0)
    expected = bound(model.given(), IMAGES, draws, n_steps)
    seen = bound_in(spec, model, IMAGES, draws, n_steps)
    for found, term in zip(seen, ("prior", "reconstruction", "diffusion"), strict=True):  # Images are float32.
        torch.testing.assert_close(found, getattr(expected, term), rtol=1e-3, atol=1e-4)


@every
def test_samples_are_the_same_after_rescaling(exact_model, spec):
    root = normal(4, 4)
    model = exact_model(GaussianDenoiser(0.3 * normal(*SHAPE, seed=1), 0.2 * root @ root.T), Cosine(-8.0, 5.0))
    grid, z = model.noise_schedule.grid(20), normal(4, *SHAPE, seed=3)
    other = spec.factor(grid[-1:].expand(4), z) * z
    for k in range(20, 0, -1):
        s, t, eps = grid[k - 1].expand(4), grid[k].expand(4), normal(4, *SHAPE, seed=10 + k)
        z = model.reverse.step(z, model.denoise(z, t), s, t, eps)
        x_hat = spec.denoised(other, model.denoise(other / spec.factor(t, z), t), t)
        mean, std = spec.posterior(other, x_hat, s, t)
        other = mean + over_image(std, mean) * eps
        torch.testing.assert_close(other / spec.factor(s, z), z, rtol=1e-8, atol=1e-9)


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
        seen = sum(bound_in(spec, bundled, images, draws, None))
        expected = bound(bundled.given(), images, draws).total
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=0)


def test_the_bundled_models_bound_is_the_same_under_another_schedule_within_its_error(bundled, pictures):
    """Linear, and one made of unequal pieces with equal ends, at random times: eq. 18 of the paper."""
    estimates = []
    for schedule in (bundled.noise_schedule, Table([-13.3, -9.0, -5.0, 1.0, 5.0])):
        draws = [evaluation_draws(range(32), bundled.image_shape, 0, 4, which) for which in range(4)]
        with torch.no_grad():
            values = torch.cat([bound(rescheduled(bundled, schedule), pictures, d).bpd for d in draws])
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
            losses.append(times.diff() * continuous_diffusion(rescheduled(bundled, schedule), x, u, eps))
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)
    torch.testing.assert_close(losses[1].sum(), losses[0].sum(), rtol=0.01, atol=0)


def rescheduled(model, noise_schedule):
    return replace(model.given(), noise_schedule=noise_schedule)
