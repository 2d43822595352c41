"""On Gaussian data the probability flow gives -log p(x); dequantisation fills the cell; traces are unbiased."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from nelbo.data import from_array
from nelbo.diffusion.decoder import HALF_STEP, to_unit
from nelbo.diffusion.dequantisation import DEQUANTISATIONS
from nelbo.diffusion.gaussian import diffuse
from nelbo.diffusion.noise_schedule import Linear
from nelbo.diffusion.probability_flow import Tolerances, flow, log_density
from nelbo.errors import NelboError
from nelbo.models.config import ModelConfig
from nelbo.models.noise_schedule_config import settings_of
from nelbo.nets.closed_form import GaussianDenoiser
from nelbo.ode import ode_likelihood

from fixtures.networks import random_model, tiny_multiscale

SHAPE = (1, 2, 2)
ENDS = (-9.0, 20.0)  # At the noisier one, all but the prior is gone.
TIGHT = Tolerances(1e-6, 1e-6)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_denoiser():
    root = normal(4, 4)
    return GaussianDenoiser(0.3 * normal(*SHAPE, seed=1), 0.1 * root @ root.T)


def pixels(n, seed=0, shape=SHAPE):
    return torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def network(n_classes=0):
    schedule = settings_of(Linear)(gamma_0=-6.0, gamma_1=5.0)
    config = ModelConfig(
        image_shape=SHAPE, net=tiny_multiscale(), noise_schedule=schedule, prediction="v", n_classes=n_classes
    )
    return random_model(config)


# The flow


def test_the_density_of_gaussian_latents_is_exact():
    denoiser, gamma = gaussian_denoiser(), torch.full((5,), ENDS[0], dtype=torch.float64)
    z_0 = diffuse(0.5 * normal(5, *SHAPE, seed=2), normal(5, *SHAPE, seed=3), gamma)
    found, n_calls = log_density(denoiser, z_0, *ENDS, tolerances=TIGHT)
    torch.testing.assert_close(found, denoiser.log_density(z_0, gamma), rtol=0, atol=1e-3)
    assert n_calls > 20


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_the_error_is_of_the_order_of_the_tolerance(tolerance):
    denoiser, gamma = gaussian_denoiser(), torch.full((5,), ENDS[0], dtype=torch.float64)
    z_0 = diffuse(0.5 * normal(5, *SHAPE, seed=2), normal(5, *SHAPE, seed=3), gamma)
    found, _ = log_density(denoiser, z_0, *ENDS, tolerances=Tolerances(tolerance, tolerance))
    error = (found - denoiser.log_density(z_0, gamma)).abs().max() / 4
    assert error < 100 * tolerance + 1e-4  # Errors of the steps add up; the prior's mismatch is below 1e-4.


def test_the_path_of_gaussian_data_keeps_its_place_in_the_distribution():
    """Along each axis the flow keeps the latent's number of standard deviations."""
    denoiser = gaussian_denoiser()
    gammas = torch.linspace(-9, 5, 7, dtype=torch.float64)
    place = normal(1, 4, seed=4)

    def latent(gamma):
        scale = denoiser._latent_variances(gamma[None]).sqrt()
        mean = torch.sigmoid(-gamma).sqrt() * denoiser.mean.flatten()
        return (mean + (scale * place) @ denoiser.axes.T).reshape(1, *SHAPE)

    for gamma in gammas:
        velocity, _ = flow(denoiser, latent(gamma), gamma, None)
        expected = torch.func.jvp(latent, (gamma,), (torch.ones_like(gamma),))[1]
        torch.testing.assert_close(velocity, expected, rtol=1e-9, atol=1e-10)


def test_the_mean_of_all_probes_is_the_exact_trace():
    model, z, gamma = network(), 0.5 * normal(2, *SHAPE), torch.tensor(-1.0, dtype=torch.float64)
    denoise = lambda z, gamma: model.denoise(z.float(), gamma)  # noqa: E731
    _, exact = flow(denoise, z, gamma, None)
    signs = [torch.tensor(s, dtype=torch.float64).reshape(1, *SHAPE) for s in itertools.product((-1, 1), repeat=4)]
    estimates = torch.stack([flow(denoise, z, gamma, sign.expand(2, *SHAPE))[1] for sign in signs])
    torch.testing.assert_close(estimates.mean(0), exact, rtol=1e-4, atol=1e-5)
    assert estimates.std(0).min() > 1e-4


def test_the_exact_trace_is_that_of_the_jacobian():
    model, z, gamma = network(), 0.5 * normal(1, *SHAPE), torch.tensor(-1.0, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda z: flow_velocity(model, z, gamma))(z).reshape(4, 4)
    _, found = flow(lambda z, gamma: model.denoise(z.float(), gamma), z, gamma, None)
    torch.testing.assert_close(found[0], jacobian.trace(), rtol=1e-4, atol=1e-5)


def flow_velocity(model, z, gamma):
    sigma = torch.sigmoid(gamma).sqrt()
    return 0.5 * sigma * (model.denoise(z.float(), gamma.expand(1)).double() - sigma * z)


# Dequantisation


@pytest.mark.parametrize("gamma_0", [-13.3, -9.0, -3.0])
@pytest.mark.parametrize("name", DEQUANTISATIONS)
def test_noise_fills_the_cell_with_the_density_that_it_states(name, gamma_0):
    n = 20_001
    u = ((torch.arange(n, dtype=torch.float64) + 0.5) / n).reshape(1, 1, 1, n)
    noise, log_q = (part.flatten() for part in DEQUANTISATIONS[name](u, gamma_0))
    assert bool((noise.abs() < HALF_STEP).all())
    assert bool((noise.diff() > 0).all())
    slope = n * noise[1:].sub(noise[:-1])  # dx/du = 1/q
    middle = 0.5 * (log_q[1:] + log_q[:-1])
    inner = slice(100, -100)
    torch.testing.assert_close(-slope.log()[inner], middle[inner], rtol=0, atol=2e-3)
    assert torch.exp(-log_q).mean().item() == pytest.approx(2 * HALF_STEP, rel=2e-3)  # E_q[1/q] is the cell's width.


def test_the_truncated_normal_is_the_cleanest_latents_noise_where_the_cell_is_wide():
    u = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64).reshape(1, 1, 1, 3)
    noise, _ = DEQUANTISATIONS["truncated_normal"](u, -20.0)
    expected = math.exp(-10) * torch.distributions.Normal(0.0, 1.0).icdf(u)
    torch.testing.assert_close(noise, expected, rtol=1e-6, atol=1e-12)


# The likelihood of 8-bit images


def code_length(values, denoiser):
    """Returns -log2 of the mass that each one-pixel image's cell has under the cleanest latent's density."""
    std = math.sqrt(denoiser.variances.item() + math.exp(ENDS[0]))
    density = torch.distributions.Normal(denoiser.mean.item(), std)
    x = to_unit(values).double().flatten()
    return -torch.log2(density.cdf(x + HALF_STEP) - density.cdf(x - HALF_STEP))


@pytest.mark.parametrize("name", DEQUANTISATIONS)
def test_on_gaussian_data_it_is_the_code_length_and_more_draws_close_the_gap(exact_model, name):
    denoiser = GaussianDenoiser(torch.full((1, 1, 1), 0.1), torch.tensor([0.04], dtype=torch.float64))
    model, images = exact_model(denoiser, Linear(*ENDS)), pixels(64, shape=(1, 1, 1)) // 3 + 90
    truth = code_length(images, denoiser).mean().item()
    few, many = (ode_likelihood(model, images, name, "exact", k, 1e-4, 1e-4, batch_size=64).bpd for k in (1, 16))
    assert truth - 0.01 < many < few + 0.01
    assert many == pytest.approx(truth, abs=0.03)
    if name == "uniform":  # The density hardly changes within a cell.
        assert few == pytest.approx(truth, abs=0.02)


def test_images_have_their_own_noise_whatever_the_batch(exact_model):
    model, images = exact_model(gaussian_denoiser(), Linear(*ENDS)), pixels(6)
    results = [
        ode_likelihood(model, images, rtol=1e-6, atol=1e-6, seed=seed, batch_size=size)
        for seed, size in ((0, 6), (0, 6), (0, 4), (1, 6))
    ]
    assert results[0] == results[1]
    assert results[2].bpd == pytest.approx(results[0].bpd, abs=1e-4)
    assert results[3].bpd != pytest.approx(results[0].bpd, abs=1e-3)


def test_the_two_traces_agree_where_dimensions_do_not_see_each_other():
    """Then the Jacobian is diagonal, and random signs cancel."""
    z_0, probe = normal(3, *SHAPE), normal(3, *SHAPE, seed=1).sign()
    loose = Tolerances(1e-3, 1e-3)
    results = [log_density(lambda z, gamma: torch.tanh(z), z_0, -3.0, 2.0, v, loose) for v in (None, probe)]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=1e-12)
    assert results[0][1] == results[1][1] > 10


def test_classes_reach_the_network(tmp_path):
    model = network(n_classes=3)
    with torch.no_grad():
        for name, parameter in model.net.named_parameters():
            if "condition" in name:
                parameter.add_(torch.randn(parameter.shape))
    arrays = [from_array(pixels(4), labels=np.array(labels)) for labels in ([0, 1, 2, 0], [1, 1, 1, 1])]
    first, second = (ode_likelihood(model, data, rtol=1e-3, atol=1e-3) for data in arrays)
    assert first.bpd != pytest.approx(second.bpd, abs=1e-4)
    first.save(tmp_path / "ode.json")
    assert json.loads((tmp_path / "ode.json").read_text())["bpd"] == first.bpd
    with pytest.raises(NelboError, match="has no labels, which a model of 3 classes needs"):
        ode_likelihood(model, pixels(4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dequantisation": "none"}, "dequantisation is one of uniform, truncated_normal, got 'none'"),
        ({"trace": "all"}, "trace is one of hutchinson, exact, got 'all'"),
        ({"n_samples": 0}, "n_samples must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"rtol": 0.0}, "rtol is a tolerance between 0 and 1"),
        ({"atol": math.nan}, "atol is a tolerance between 0 and 1"),
        ({"seed": -1}, "a seed is a number from 0 on"),
    ],
)
def test_bad_settings_are_one_line(settings, message):
    with pytest.raises(NelboError, match=message) as caught:
        ode_likelihood(network(), pixels(2), **settings)
    assert "\n" not in str(caught.value)


def test_a_discrete_time_model_has_no_flow(exact_model):
    model = exact_model(gaussian_denoiser(), Linear(*ENDS))
    model.gammas = torch.linspace(-9, 5, 10, dtype=torch.float64)
    with pytest.raises(NelboError, match="continuous time"):
        ode_likelihood(model, pixels(2))


def test_a_flow_that_cannot_be_followed_is_refused():
    def broken(z, gamma):
        return z * math.nan

    with pytest.raises(NelboError, match="cannot be followed"):
        log_density(broken, normal(1, *SHAPE), *ENDS)


def test_every_image_and_every_draw_has_noise_and_a_probe_of_its_own(exact_model, monkeypatch):
    seen = []

    def record(denoise, z_0, gamma_0, gamma_1, probe, tolerances):
        seen.append((z_0, probe))
        return torch.zeros(len(z_0), dtype=torch.float64), 1

    monkeypatch.setattr("nelbo.ode.log_density", record)
    model, image = (
        exact_model(GaussianDenoiser(torch.zeros(3, 4, 4), torch.eye(48)), Linear(*ENDS)),
        pixels(1, shape=(3, 4, 4)),
    )
    ode_likelihood(model, image.expand(5, -1, -1, -1), n_samples=3, batch_size=2)
    for parts in zip(*seen, strict=True):
        rows = torch.cat(parts).flatten(1)
        assert len(rows) == len(rows.unique(dim=0)) == 15


def test_the_standard_error_is_that_of_the_mean_over_images(exact_model, monkeypatch):
    log_p = torch.tensor([3.0, -1.0, 0.5, 7.0], dtype=torch.float64)
    monkeypatch.setattr("nelbo.ode.log_density", lambda *arguments: (log_p, 1))
    model = exact_model(gaussian_denoiser(), Linear(*ENDS))
    result = ode_likelihood(model, pixels(4), "uniform")
    assert result.standard_error == pytest.approx(log_p.std().item() / 2 / (4 * math.log(2)), rel=1e-9)
    nats = -(log_p.mean() - 2 * math.log1p(math.exp(ENDS[0])) + 4 * math.log(2 * HALF_STEP))
    assert result.bpd == pytest.approx(nats.item() / (4 * math.log(2)), rel=1e-9)


def test_steps_are_as_short_as_the_density_needs_where_the_latent_stands_still():
    """At z = 0 of this denoiser nothing moves, and the log-density gains an integral that is known."""
    denoise = lambda z, gamma: 20 * torch.sin(4 * gamma)[:, None, None, None] * z  # noqa: E731
    found, _ = log_density(denoise, torch.zeros(1, *SHAPE), -4.0, 4.0, tolerances=TIGHT)
    gamma = torch.linspace(-4, 4, 40_001, dtype=torch.float64)
    sigma = torch.sigmoid(gamma).sqrt()
    gain = torch.trapezoid(0.5 * sigma * (20 * torch.sin(4 * gamma) - sigma), gamma)
    expected = 4 * (gain - 0.5 * math.log(math.tau))
    torch.testing.assert_close(found, expected[None], rtol=0, atol=1e-3)
