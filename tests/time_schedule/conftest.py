"""Small models with known answers, for tables and schedules."""

import pytest
import torch

from nelbo.diffusion.decoder import DECODERS, to_unit
from nelbo.diffusion.noise_schedule import Linear, Table
from nelbo.diffusion.reverse import FIXED_KERNELS
from nelbo.models.interface import DiffusionModel
from nelbo.nets.closed_form import MixtureDenoiser
from nelbo.time_schedule.gather import error_table

from fixtures.schedule_cases import MODELS, N_IMAGES, N_LEVELS

SHAPE = (3, 4, 4)


def pixels(n, seed=0, shape=SHAPE):
    """Returns smooth random images."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, shape[0], 1, 1, generator=rng) + 0.5 * torch.randn(n, 1, *shape[1:], generator=rng)
    return (128 + 40 * (coarse + 0.2 * torch.randn(n, *shape, generator=rng))).clamp(0, 255).to(torch.uint8)


class ToyModel(DiffusionModel):
    """A mixture's exact denoiser, slightly wrong, as a VDM or as a DDPM with learned variances; counts its calls."""

    def __init__(self, n_levels=None, reverse="posterior"):
        super().__init__()
        self.image_shape = SHAPE
        self.denoiser = MixtureDenoiser(to_unit(pixels(5, seed=9)))
        self.decoder = DECODERS["softmax"]
        self.reverse = FIXED_KERNELS[reverse]
        self.n_images_seen, self.is_exact = 0, False
        self.noise_schedule = Linear(-13.3, 5.0)
        if n_levels is not None:
            self.gammas = torch.linspace(-9.0, 5.0, n_levels, dtype=torch.float64)
            self.noise_schedule = Table(self.gammas.tolist())
            self.exit_std = 0.02

    def denoise(self, z, gamma, labels=None):
        self.n_images_seen += len(z)
        shrink = 1.0 if self.is_exact else 0.9 + 0.05 * torch.sigmoid(gamma)[:, None, None, None].to(z.dtype)
        return shrink * self.denoiser(z, gamma)

    def predict(self, z, gamma, labels=None):
        nu = torch.sigmoid(0.3 * z + 0.1 * gamma[:, None, None, None]).to(z.dtype)
        return self.denoise(z, gamma), nu if self.reverse.name == "learned-range" else None


@pytest.fixture
def make_model():
    """Makes a model: ``make_model(n_levels=None, reverse="posterior")``."""
    return ToyModel


@pytest.fixture
def make_pixels():
    """Makes images: ``make_pixels(n, seed=0)``."""
    return pixels


@pytest.fixture
def gathered(make_model, make_pixels):
    """Returns a model, its images and their table: ``gathered("vdm")`` or ``gathered("ddpm")``."""

    def run(model_name):
        model, images = make_model(*MODELS[model_name]), make_pixels(N_IMAGES)
        return model, images, error_table(model, make_pixels(N_IMAGES), n_gammas=N_LEVELS, precision="float32")

    return run
