"""runs/bundle.py changes a model's noise schedule and nothing else."""

import runpy
from pathlib import Path

import torch

from nelbo.diffusion.noise_schedule import Linear, Table
from nelbo.models.config import ModelConfig
from nelbo.models.noise_schedule_config import settings_of
from nelbo.models.vdm import VDM

from fixtures.networks import tiny_multiscale

straightened = runpy.run_path(str(Path(__file__).parents[1] / "runs" / "bundle.py"))["straightened"]


def test_a_straightened_model_is_the_same_denoiser_between_the_same_ends():
    net = tiny_multiscale()
    table = settings_of(Table)(gammas=(-13.3, -9.0, -7.5, 5.0))
    torch.manual_seed(0)
    model = VDM(ModelConfig(image_shape=(1, 4, 4), net=net, noise_schedule=table)).eval()
    torch.nn.init.normal_(model.get_parameter("net.conv_out.weight"))
    result = straightened(model)
    assert result.config == model.config.model_copy(update={"noise_schedule": settings_of(Linear)()})
    z, gamma = torch.randn(3, 1, 4, 4), torch.tensor([-13.3, -8.0, 5.0])
    assert torch.equal(result.denoise(z, gamma), model.denoise(z, gamma))
    torch.testing.assert_close(
        result.noise_schedule.grid(2), torch.tensor([-13.3, -4.15, 5.0], dtype=torch.float64), atol=1e-6, rtol=0
    )
