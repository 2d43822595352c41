"""Exits are distributions over images, cost what their parts say, and draw what they cost."""

import itertools
import math

import pytest
import torch

from nelbo.diffusion import residual_decoder
from nelbo.diffusion.decoder import discretised_gaussian, to_unit, to_values
from nelbo.diffusion.residual_decoder import NEIGHBOURS, ResidualDecoder, contexts, fit_exit

KINDS = list(NEIGHBOURS)
every = pytest.mark.parametrize("kind", KINDS)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pictures(n, shape=(3, 8, 8), seed=0):
    """Returns images whose residuals are correlated between neighbours and channels and vary in size."""
    smooth = torch.nn.functional.avg_pool2d(normal(n, shape[0], shape[1] + 2, shape[2] + 2, seed=seed), 3, stride=1)
    shared, size = smooth.mean(1, keepdim=True), torch.exp(normal(n, 1, 1, 1, seed=seed + 1))
    x_hat = 0.2 * normal(n, *shape, seed=seed + 2)
    residual = 0.03 * size * (shared + 0.5 * smooth)
    return ((x_hat + residual + 1) * 128).round().clamp(0, 255).to(torch.uint8), x_hat


def test_one_pixel_of_one_channel_is_a_discretised_gaussian():
    exit = ResidualDecoder("channels", torch.zeros(1, 0).double(), torch.tensor([[math.log(0.01)]]).double(), 0.0)
    images, x_hat = torch.tensor([[[[100]]]], dtype=torch.uint8), torch.full((1, 1, 1, 1), -0.2)
    expected = discretised_gaussian(to_unit(images).double(), x_hat.double(), torch.tensor(0.1).double())
    torch.testing.assert_close(exit.log_likelihood(images, x_hat), expected.flatten())


@every
def test_probabilities_sum_to_one(kind):
    """Over all 256 x 256 images of two pixels, whatever the weights."""
    exit = fit_exit(kind, *pictures(4, (1, 1, 2)))
    values = torch.arange(256, dtype=torch.uint8)
    images = torch.cartesian_prod(values, values).reshape(-1, 1, 1, 2)
    x_hat = torch.tensor([[[[0.1, -0.4]]]]).expand(len(images), -1, -1, -1)
    total = torch.logsumexp(exit.log_likelihood(images, x_hat), 0)
    torch.testing.assert_close(total, torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-9)


@every
def test_a_pixel_is_judged_by_what_comes_before_it_alone(kind):
    images, x_hat = pictures(1)
    residual = to_unit(images).double() - x_hat
    before = list(contexts(residual, x_hat, kind))
    for channel, row, column in [(0, 3, 4), (2, 7, 7), (1, 0, 0)]:
        changed = residual.clone()
        changed[:, channel, row, column] += 1
        for (c, known, context), (_, other_known, other_context) in zip(
            before, contexts(changed, x_hat, kind), strict=True
        ):
            differs = (known != other_known).any(-1)[0] | (context != other_context).any(-1)[0]
            for y, x in itertools.product(range(8), range(8)):
                if differs[y, x]:
                    assert (y, x, c) > (row, column, channel)


@every
def test_a_fit_is_no_worse_than_its_perturbations(kind):
    images, x_hat = pictures(16)
    exit = fit_exit(kind, images, x_hat)
    best = exit.log_likelihood(images, x_hat).sum()
    for seed in range(4):
        weights = exit.weights + 0.1 * normal(*exit.weights.shape, seed=seed)
        scales = exit.scales + 0.1 * normal(*exit.scales.shape, seed=seed)
        if weights.numel():
            assert ResidualDecoder(kind, weights, exit.scales, exit.rounding).log_likelihood(images, x_hat).sum() < best
        assert ResidualDecoder(kind, exit.weights, scales, exit.rounding).log_likelihood(images, x_hat).sum() < best


def test_neighbours_pay_where_residuals_are_correlated():
    images, x_hat = pictures(32)
    nats = {kind: -fit_exit(kind, images, x_hat).log_likelihood(*pictures(32, seed=7)).mean() for kind in KINDS}
    assert nats["causal"] < 0.9 * nats["channels"]


@every
def test_samples_cost_on_average_what_their_distribution_says(kind):
    """On average -log p of a draw is the sum over pixels of the entropies given what was drawn before."""
    images, x_hat = pictures(64, (3, 6, 6))
    exit = fit_exit(kind, images, x_hat)
    draws = exit.sample(x_hat, normal(64, 3, 6, 6, seed=3))
    nats, entropy = -exit.log_likelihood(draws, x_hat), torch.zeros(64, dtype=torch.float64)
    points = to_unit(torch.arange(256)).double()
    residual = to_unit(draws).double() - x_hat
    for channel, known, context in contexts(residual, x_hat, kind):
        mean = x_hat[:, channel] + known @ exit.weights[channel, : known.shape[-1]]
        log_p = discretised_gaussian(points, mean[..., None], exit._std(context, channel)[..., None])
        entropy -= (log_p.exp() * log_p.clamp(min=-1e3)).sum(-1).flatten(1).sum(1)
    error = (nats - entropy).std() / 64**0.5
    assert (nats - entropy).mean().abs() < 4 * error


def test_without_noise_the_sample_is_the_prediction():
    images, _ = pictures(3)
    for kind in KINDS:
        exit = fit_exit(kind, *pictures(16))
        torch.testing.assert_close(exit.sample(to_unit(images), torch.zeros(3, 3, 8, 8)), images)


@every
def test_perfect_predictions_leave_almost_nothing_to_pay(kind):
    images, _ = pictures(4)
    exit = fit_exit(kind, images, to_unit(images))
    assert (-exit.log_likelihood(images, to_unit(images))).max() < 1e-3


class Elsewhere(torch.Tensor):
    """A stand-in for a tensor of another device: whatever comes of it stays there, but for what ``cpu`` returns."""

    def cpu(self, memory_format=torch.preserve_format):
        return self.as_subclass(torch.Tensor)


@every
def test_an_exit_lives_on_the_cpu_wherever_it_was_fitted(kind, monkeypatch):
    there, fit = fit_exit(kind, *pictures(4)), residual_decoder._fit_channel
    monkeypatch.setattr(
        residual_decoder, "_fit_channel", lambda *arguments: [part.as_subclass(Elsewhere) for part in fit(*arguments)]
    )
    exit = fit_exit(kind, *pictures(4))
    assert type(exit.weights) is type(exit.scales) is torch.Tensor
    assert torch.equal(exit.weights, there.weights)
    assert torch.equal(exit.scales, there.scales)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every
def test_an_exit_fitted_on_a_gpu_serves_there_and_here(kind):
    images, x_hat = pictures(4)
    exit = fit_exit(kind, images.cuda(), x_hat.cuda())
    assert exit.weights.device.type == exit.scales.device.type == "cpu"
    torch.testing.assert_close(
        exit.log_likelihood(images.cuda(), x_hat.cuda()).cpu(), exit.log_likelihood(images, x_hat)
    )


@every
def test_a_sample_is_its_own_mean_and_deviation_at_every_pixel(kind):
    """Given all that was drawn before it, rounded: what a decoder sees is what the sampler went on from."""
    exit, (_, x_hat) = fit_exit(kind, *pictures(16)), pictures(4, seed=5)
    noise = normal(4, 3, 8, 8, seed=3)
    drawn = exit.sample(x_hat, noise)
    for channel, known, context in contexts(to_unit(drawn).double() - x_hat, x_hat, kind):
        mean = x_hat[:, channel] + known @ exit.weights[channel, : known.shape[-1]]
        value = mean + exit._std(context, channel) * noise[:, channel]
        assert torch.equal(to_values(value), drawn[:, channel])


def test_quiet_pixels_weigh_more_than_loud_ones_in_a_fit():
    """In flat images the left neighbour gives the residual away; in busy ones, whose x_hat says so, nothing does."""
    noise, x_hat = normal(32, 1, 16, 16), torch.zeros(32, 1, 16, 16, dtype=torch.float64)
    x_hat[16:] = 0.2 * normal(16, 1, 16, 16, seed=1)
    residual = 0.1 * noise
    for column in range(16):
        before = residual[:16, ..., column - 1] if column else 0.0
        residual[:16, ..., column] = 0.9 * before + 0.02 * noise[:16, ..., column]
    exit = fit_exit("causal", to_values(x_hat + residual), x_hat)
    left = NEIGHBOURS["causal"].index((0, -1))
    assert exit.weights[0, left] > 0.4  # Least squares without weights gives 0.16.
