"""Programs compute what their networks compute, and what cannot be translated is refused by name."""

import pytest
import torch
from torch import nn

from nelbo.errors import NelboError
from nelbo.integer.executors import run_float
from nelbo.integer.program import Program
from nelbo.integer.translate import translate
from nelbo.models.config import ModelConfig
from nelbo.models.vdm import VDM

from fixtures.networks import small_multiscale

SMALL = ModelConfig(image_shape=(3, 8, 8), net=small_multiscale())


@pytest.mark.parametrize("gamma", [-13.0, -4.5, 4.9])
def test_a_program_computes_its_network(model, gamma):
    program, tensors = translate(model)
    z = torch.randn((2, *model.image_shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.net(z, torch.full((2,), gamma))
    floats = {name: tensor.float() for name, tensor in tensors.items()}
    torch.testing.assert_close(run_float(program, floats, z, gamma), expected, rtol=1e-3, atol=1e-3)


def test_a_program_is_its_json(model):
    program, _ = translate(model)
    assert Program.model_validate_json(program.model_dump_json()) == program


def test_results_are_forgotten_after_their_last_use(model):
    program, _ = translate(model)
    alive = set()
    for position, (op, dead) in enumerate(zip(program.operations, program.last_uses(), strict=True)):
        assert alive.issuperset(op.sources)
        alive = (alive | {position}) - set(dead)
    assert alive == {len(program.operations) - 1}


def with_module(path, module):
    model = VDM(SMALL)
    parent, _, name = path.rpartition(".")
    setattr(model.net.get_submodule(parent), name, module)
    return model


@pytest.mark.parametrize(
    ("path", "module", "complaint"),
    [
        ("down.0.blocks.0.shortcut", nn.Hardswish(), "no operation for torch.nn.modules.activation.Hardswish"),
        ("down.0.blocks.0.conv1", nn.Conv2d(8, 8, 3, padding=1, groups=2), r"down.0.blocks.0.conv1 is no plain conv"),
        ("down.0.blocks.0.conv2", nn.Conv2d(8, 8, 3, padding=2, dilation=2), r"conv2 is no plain convolution"),
        ("down.0.blocks.0.norm1", nn.GroupNorm(4, 8, affine=False), r"norm1 has no gain and offset"),
        ("embedding", nn.Identity(), "no operation for torch.nn.modules.linear.Identity"),
        ("extra", nn.Linear(2, 2), "covers 'extra.weight'"),
    ],
)
def test_what_is_not_covered_is_refused_by_name(path, module, complaint):
    with pytest.raises(NelboError, match=complaint):
        translate(with_module(path, module))


def test_another_network_is_refused_by_name(exact_model):
    from nelbo.diffusion.noise_schedule import Linear
    from nelbo.nets.closed_form import GaussianDenoiser

    model = exact_model(GaussianDenoiser(torch.zeros(1, 2, 2), torch.ones(4)), Linear(-5.0, 5.0))
    with pytest.raises(NelboError, match="a ExactModel has no bit-exact translation"):
        translate(model)
    model = VDM(SMALL)
    model.net = nn.Sequential(nn.Conv2d(3, 3, 1))
    with pytest.raises(NelboError, match=r"no operation for torch.nn.modules.container.Sequential \(the network\)"):
        translate(model)
