"""Every decoder is a distribution over the 256 values, and its shortcuts agree with its whole table."""

import math

import pytest
import torch

from nelbo.diffusion.decoder import DECODERS, N_VALUES, DiscretisedGaussian, to_unit, to_values, window_radius
from nelbo.diffusion.gaussian import alpha, diffuse

GAMMAS = [-18.0, -13.3, -9.7, -7.0, -4.0, 0.0, 3.0]
every = pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS.keys())
at_every_gamma = pytest.mark.parametrize("gamma", GAMMAS)


def scalar(gamma, dtype=torch.float64):
    return torch.tensor(gamma, dtype=dtype)


def all_values():
    """Returns two images that hold every value between them, many times."""
    return torch.arange(4 * N_VALUES).reshape(2, 2, 16, 16).to(torch.uint8)


def latents(gamma, dtype=torch.float64):
    """Returns latents of all values: as the model sees them, and some far outside."""
    rng = torch.Generator().manual_seed(0)
    images = all_values()
    eps = torch.randn(images.shape, generator=rng, dtype=dtype)
    z = diffuse(to_unit(images).to(dtype), eps, scalar(gamma).expand(2))
    z[:, :, :2] *= 4
    return z


@every
@at_every_gamma
def test_probabilities_sum_to_one(decoder, gamma):
    total = decoder.log_probabilities(latents(gamma), scalar(gamma)).logsumexp(-1)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-11)


@every
@at_every_gamma
@pytest.mark.parametrize("of", ["the latent's own image", "another image"])
def test_the_log_likelihood_is_the_tables_entry(decoder, gamma, of):
    images = all_values() if of == "the latent's own image" else all_values().flip(3)
    z, gamma_0 = latents(gamma), scalar(gamma)
    table = decoder.log_probabilities(z, gamma_0)
    picked = table.gather(-1, images.long()[..., None]).flatten(1).sum(1)
    torch.testing.assert_close(decoder.log_likelihood(images, z, gamma_0), picked, rtol=1e-12, atol=1e-9)


@every
@pytest.mark.parametrize("gamma", [-13.3, -7.0, 0.0])
def test_float32_latents_lose_few_digits(decoder, gamma):
    z, gamma_0 = latents(gamma, torch.float32), scalar(gamma)
    exact = decoder.log_likelihood(all_values(), z.double(), gamma_0)
    found = decoder.log_likelihood(all_values(), z, gamma_0)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=0)


@every
@at_every_gamma
def test_the_mode_is_the_most_probable_value(decoder, gamma):
    z, gamma_0 = latents(gamma), scalar(gamma)
    mode = decoder.mode(z, gamma_0)
    assert mode.dtype == torch.uint8
    torch.testing.assert_close(mode.long(), decoder.log_probabilities(z, gamma_0).argmax(-1))


@every
@at_every_gamma
@pytest.mark.parametrize(("value", "side"), [(0, -1.0), (255, 1.0)])
def test_a_latent_far_outside_is_surely_an_edge_value(decoder, gamma, value, side):
    gamma_0 = scalar(gamma)
    tau = math.exp(gamma / 2)
    mean = side * (1 + 50 * tau + 1000 * tau**2)
    z_0 = torch.full((1, 1, 2, 2), mean, dtype=torch.float64) * alpha(gamma_0)
    image = torch.full((1, 1, 2, 2), value, dtype=torch.uint8)
    surprise = -decoder.log_likelihood(image, z_0, gamma_0)
    torch.testing.assert_close(surprise, torch.zeros(1, dtype=torch.float64), rtol=0, atol=0.01)


@every
@pytest.mark.parametrize("gamma", [-13.3, -4.0])
def test_values_very_far_from_the_latent_are_improbable_but_not_impossible(decoder, gamma):
    z_0 = torch.full((1, 1, 1, 1), 0.9)
    for value in (0, 1, 255):
        image = torch.full((1, 1, 1, 1), value, dtype=torch.uint8)
        assert torch.isfinite(decoder.log_likelihood(image, z_0, scalar(gamma))).all()


@at_every_gamma
def test_values_outside_the_softmaxs_window_weigh_nothing(gamma):
    z, gamma_0 = latents(gamma), scalar(gamma)
    nearest = to_values(z / alpha(gamma_0)).long()[..., None]
    outside = (torch.arange(N_VALUES) - nearest).abs() > window_radius(gamma_0)
    table = DECODERS["softmax"].log_probabilities(z, gamma_0)
    assert bool((table[outside] < -44.9).all())


def test_the_softmaxs_window_is_small_where_models_live():
    assert window_radius(scalar(-13.3)) <= 3
    assert window_radius(scalar(10.0)) == N_VALUES - 1


def test_the_discretised_gaussian_integrates_the_normal_density():
    gamma_0 = scalar(-6.0)
    mean, tau = torch.tensor([[0.1], [-0.99], [0.998]], dtype=torch.float64), math.exp(-3)
    edges = torch.linspace(-1, 1, N_VALUES + 1, dtype=torch.float64)
    below = torch.distributions.Normal(mean, tau).cdf(edges)
    below[:, 0], below[:, -1] = 0, 1
    probabilities = DiscretisedGaussian().log_probabilities(mean[:, 0] * alpha(gamma_0), gamma_0).exp()
    torch.testing.assert_close(probabilities, below.diff(), rtol=1e-9, atol=1e-15)


def test_values_and_points_are_inverse():
    values = torch.arange(N_VALUES)
    x = to_unit(values)
    assert to_values(x).tolist() == values.tolist()
    torch.testing.assert_close(x.diff(), torch.full((255,), 1 / 128), rtol=0, atol=0)
    torch.testing.assert_close(x, -x.flip(0), rtol=0, atol=0)
    assert to_values(x + 0.0039).tolist() == values.tolist()
    assert to_values(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


def test_at_the_papers_gamma_0_the_reconstruction_term_is_a_hundredth_of_a_bit():
    """The reference figure: 0.0098 to 0.0110 bpd at gamma_0 = -13.3, by Monte Carlo on random images."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (64, 1, 128, 128), generator=rng, dtype=torch.uint8)
    gamma_0 = scalar(-13.3)
    z_0 = diffuse(to_unit(images), torch.randn(images.shape, generator=rng), gamma_0.expand(64))
    nats = -DECODERS["softmax"].log_likelihood(images, z_0, gamma_0).sum().item()
    assert 0.0098 < nats / math.log(2) / images.numel() < 0.0110


@every
@pytest.mark.parametrize("gamma", [-13.3, -7.0, 0.0])
def test_the_gradient_that_learns_gamma_0_is_the_finite_difference(decoder, gamma):
    images, eps = (
        all_values(),
        torch.randn(4, 256, generator=torch.Generator().manual_seed(1)).reshape(2, 2, 16, 16),
    )

    def loss(gamma_0):
        z_0 = diffuse(to_unit(images).double(), eps.double(), gamma_0.expand(2))
        return decoder.log_likelihood(images, z_0, gamma_0).sum()

    gamma_0, h = scalar(gamma).requires_grad_(), 1e-5
    (gradient,) = torch.autograd.grad(loss(gamma_0), gamma_0)
    difference = (loss(scalar(gamma + h)) - loss(scalar(gamma - h))) / (2 * h)
    torch.testing.assert_close(gradient, difference, rtol=1e-5, atol=1e-5)
