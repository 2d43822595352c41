"""Small networks with weights that do something, frozen once for all tests."""

import pytest
import torch

from nelbo.models.config import ModelConfig, UNetConfig, UNetMultiscaleConfig
from nelbo.models.vdm import VDM

NETS = {
    "multiscale": ModelConfig(
        image_shape=(3, 8, 8),
        net=UNetMultiscaleConfig(
            channels=(8, 16), n_blocks_down=(1, 1), n_blocks_up=(1, 1), heads=(0, 2), n_cond=16, fourier=(7, 8)
        ),
        prediction="v",
    ),
    "patches": ModelConfig(
        image_shape=(1, 8, 8),
        net=UNetMultiscaleConfig(
            patch=2, channels=(8, 12), n_blocks_down=(0, 1), n_blocks_up=(1, 0), heads=(4, 0), n_cond=8, fourier=()
        ),
        prediction="eps",
    ),
    "augmented": ModelConfig(
        image_shape=(3, 8, 8),
        net=UNetMultiscaleConfig(
            channels=(8, 16), n_blocks_down=(1, 0), n_blocks_up=(1, 0), heads=(0, 0), n_cond=8, fourier=(7,)
        ),
        prediction="v",
        augment=("flip", "rotation"),
    ),
    "unet": ModelConfig(
        image_shape=(3, 8, 8), net=UNetConfig(n_channels=32, n_blocks=1, attention=True, fourier=(0, 3, 8))
    ),
}


@torch.no_grad()
def make_model(config: ModelConfig) -> VDM:
    """Returns a model whose zero-initialised layers are no longer zero."""
    torch.manual_seed(0)
    model = VDM(config).eval()
    for parameter in model.net.parameters():
        spread = 0.5 / max(1, parameter[0].numel()) ** 0.5
        parameter += spread * torch.randn(parameter.shape)
    return model


@pytest.fixture(scope="session", params=NETS)
def net_name(request):
    return request.param


@pytest.fixture(scope="session")
def models():
    return {name: make_model(config) for name, config in NETS.items()}


@pytest.fixture(scope="session")
def model(models, net_name):
    return models[net_name]


@pytest.fixture(scope="session")
def frozen_models(models):
    from nelbo.integer.freeze import freeze

    return {name: freeze(model, images_for(model), max_cost_bpd=1.0) for name, model in models.items()}


@pytest.fixture(scope="session")
def frozen(frozen_models, net_name):
    return frozen_models[net_name]


@pytest.fixture(scope="session")
def images_of():
    return images_for


def images_for(model, n=4):
    """Returns smooth images with noise: neither flat nor white."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand((n, model.image_shape[0], 2, 2), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=model.image_shape[1:], mode="bilinear")
    noise = torch.rand((n, *model.image_shape), generator=generator)
    return ((0.8 * smooth + 0.2 * noise) * 255).to(torch.uint8)


@pytest.fixture(scope="session")
def latents():
    """Makes integer latents of a model: ``latents(model, n, seed=0, size=1.0)``."""

    def make(model, n, seed=0, size=1.0):
        z = torch.randn((n, *model.image_shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (size * z * 2**18).round()

    return make
