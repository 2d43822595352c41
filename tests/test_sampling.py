"""A sample is a function of its seed alone, and with the exact denoiser it is drawn from the data's distribution."""

import math

import pytest
import torch

from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.noise_schedule import Cosine, Linear, Table
from nelbo.errors import NelboError
from nelbo.models.config import ModelConfig
from nelbo.nets.closed_form import GaussianDenoiser, MixtureDenoiser
from nelbo.sampling import sample

from fixtures.networks import random_model, small_unet

SHAPE = (1, 2, 2)
IMAGES = torch.tensor([[0, 10, 255, 4], [0, 10, 255, 40], [200, 10, 90, 4], [1, 2, 3, 4], [255, 255, 255, 255]])
IMAGES = IMAGES.reshape(5, *SHAPE).to(torch.uint8)
WEIGHTS = torch.tensor([0.3, 0.25, 0.2, 0.1, 0.15])
SCHEDULES = {
    "linear": Linear(-13.3, 8.0),
    "cosine": Cosine(-13.3, 8.0),
    "table": Table([-13.3, -11.0, -6.0, 0.0, 8.0]),
}


@pytest.fixture(scope="module")
def model(exact_model):
    return exact_model(MixtureDenoiser(to_unit(IMAGES), WEIGHTS), SCHEDULES["linear"])


def test_an_image_depends_on_its_seed_alone(model):
    together = sample(model, 20, [3, 5, 9, 5])
    assert together.shape == (4, *SHAPE)
    assert together.dtype == torch.uint8
    for seeds, batch_size in (([5], 64), ([5, 3], 64), ([9, 3, 5], 1), ([3, 9, 8, 5], 3)):
        found = sample(model, 20, seeds, batch_size=batch_size)
        for seed, image in zip(seeds, found, strict=True):
            if seed in (3, 5, 9):
                torch.testing.assert_close(image, together[[3, 5, 9].index(seed)])
    torch.testing.assert_close(together[1], together[3])


def test_with_a_network_it_does_so_but_for_rounding():
    vdm = random_model(ModelConfig(image_shape=(3, 8, 8), net=small_unet()), scale=0.02)
    together = sample(vdm, 8, [3, 5, 9], precision="float32").int()
    alone = sample(vdm, 8, [5], precision="float32")[0].int()
    difference = (together[1] - alone).abs()
    assert difference.max() <= 1
    assert difference.count_nonzero() < 0.1 * difference.numel()
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_a_mixtures_samples_are_its_images_as_often_as_they_weigh(exact_model, schedule):
    model = exact_model(MixtureDenoiser(to_unit(IMAGES), WEIGHTS), schedule)
    n = 400
    found = sample(model, 100, range(n), batch_size=n)
    is_image = (found[:, None] == IMAGES).flatten(2).all(2)
    assert is_image.any(1).double().mean() > 0.97
    frequency, error = is_image.double().mean(0), torch.sqrt(WEIGHTS * (1 - WEIGHTS) / n)
    assert bool(((frequency - WEIGHTS).abs() < 4 * error + 0.01).all())


def test_a_gaussians_samples_have_its_mean_and_covariance(exact_model):
    covariance = 0.05 * torch.tensor([[2.0, 1, 0, 0], [1, 2, 0, 0], [0, 0, 1, -0.5], [0, 0, -0.5, 1]])
    mean = torch.tensor([0.2, -0.1, 0.0, 0.1]).reshape(SHAPE)
    model = exact_model(GaussianDenoiser(mean, covariance), Linear(-13.3, 8.0))
    n = 2000
    x = to_unit(sample(model, 100, range(n), batch_size=n)).flatten(1)
    torch.testing.assert_close(x.mean(0), mean.flatten(), rtol=0, atol=4 * math.sqrt(0.1 / n))
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0, atol=5 * math.sqrt(2) * 0.1 / math.sqrt(n))


def test_progress_counts_network_calls(model):
    done = []
    sample(model, 5, range(7), batch_size=3, progress=done.append)
    assert done == [1] * 15


@pytest.mark.parametrize(
    ("n_steps", "seeds", "settings", "message"),
    [
        (0, [1], {}, "at least 1 step"),
        (10**12, [1], {}, "at most"),
        (5, [], {}, "at least one seed"),
        (5, [3, -1], {}, "none negative"),
        (5, [1], {"batch_size": 0}, "batch_size"),
        (5, [1], {"precision": "int8"}, "precision"),
    ],
)
def test_settings_out_of_range_are_refused(model, n_steps, seeds, settings, message):
    with pytest.raises(NelboError, match=message):
        sample(model, n_steps, seeds, **settings)


def test_damaged_weights_are_refused(exact_model):
    broken = exact_model(MixtureDenoiser(torch.full((1, *SHAPE), math.nan)), SCHEDULES["linear"])
    with pytest.raises(NelboError, match="not finite"):
        sample(broken, 2, [0])


def test_every_batch_is_drawn_with_its_own_classes(exact_model, monkeypatch):
    model = exact_model(MixtureDenoiser(to_unit(IMAGES), WEIGHTS), SCHEDULES["linear"])
    model.n_classes, seen = 3, []
    monkeypatch.setattr(model, "denoise", lambda z, gamma, labels=None: seen.append(labels) or model.denoiser(z, gamma))
    sample(model, 1, [0, 1, 2, 3, 7], batch_size=2, classes=[2, 0, 1])
    assert [labels.tolist() for labels in seen] == [[2, 0], [1, 2], [0]]
