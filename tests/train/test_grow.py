"""A grown model computes what the smaller one did; runs/grow.py makes the start of the bundled model's second stage."""

import runpy
from pathlib import Path

import pytest
import torch

from nelbo.errors import NelboError
from nelbo.model import VDM
from nelbo.model_config import ModelConfig, UNetMultiscaleConfig

grow = runpy.run_path(str(Path(__file__).parents[2] / "runs" / "grow.py"))["grow"]
SMALL = UNetMultiscaleConfig(channels=(8, 16), n_blocks_down=(1, 1), n_blocks_up=(1, 1), heads=(0, 2), n_cond=16)


def model_of(net):
    return ModelConfig(image_shape=(3, 8, 8), net=net, prediction="v")


@pytest.fixture(scope="module")
def trained():
    """Returns a small model whose weights are all nonzero, as training leaves them."""
    torch.manual_seed(0)
    model = VDM(model_of(SMALL)).eval()
    with torch.no_grad():
        for weight in model.net.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {"n_blocks_down": (2, 1)},
        {"n_blocks_up": (2, 3)},
        {"fourier": (5, 6, 7, 8)},
        {"n_blocks_down": (2, 2), "fourier": (7, 2, 8)},
    ],
)
def test_a_grown_model_computes_the_same(trained, changes):
    larger = grow(trained, model_of(SMALL.model_copy(update=changes)))
    z, gamma = torch.randn(4, 3, 8, 8), torch.tensor([-13.0, -9.0, -3.0, 4.0])
    assert sum(p.numel() for p in larger.parameters()) > sum(p.numel() for p in trained.parameters())
    with torch.no_grad():
        torch.testing.assert_close(larger.denoise(z, gamma), trained.denoise(z, gamma))


def test_every_new_block_can_learn(trained):
    larger = grow(trained, model_of(SMALL.model_copy(update={"n_blocks_down": (2, 1)})))
    larger.denoise(torch.randn(2, 3, 8, 8), torch.zeros(2)).square().sum().backward()
    assert larger.get_submodule("net.down.0.blocks.1.conv2").weight.grad.abs().sum() > 0


@pytest.mark.parametrize("changes", [{"n_blocks_down": (0, 1)}, {"channels": (8, 20)}, {"fourier": (7,)}])
def test_what_cannot_grow_is_refused(trained, changes):
    with pytest.raises(NelboError, match="larger network"):
        grow(trained, model_of(SMALL.model_copy(update=changes)))
