"""Small networks with weights that do something, frozen once for all tests."""

import pytest
import torch

from nelbo.models.config import ModelConfig

from fixtures.networks import ATTENTIVE, random_model, small_multiscale, small_unet

NETS = {
    "multiscale": ATTENTIVE,
    "patches": ModelConfig(
        image_shape=(1, 8, 8),
        net=small_multiscale(
            patch=2, channels=(8, 12), n_blocks_down=(0, 1), n_blocks_up=(1, 0), heads=(4, 0), n_cond=8, fourier=()
        ),
        prediction="eps",
    ),
    "augmented": ModelConfig(
        image_shape=(3, 8, 8),
        net=small_multiscale(n_blocks_down=(1, 0), n_blocks_up=(1, 0), n_cond=8, fourier=(7,)),
        prediction="v",
        augment=("flip", "rotation"),
    ),
    "unet": ModelConfig(image_shape=(3, 8, 8), net=small_unet(attention=True, fourier=(0, 3, 8))),
}


@pytest.fixture(scope="session", params=NETS)
def net_name(request):
    return request.param


@pytest.fixture(scope="session")
def models():
    return {name: random_model(config, 0.5) for name, config in NETS.items()}


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
