"""Features that only norms look at can be smaller: the network computes the same, and then it can be frozen."""

import copy

import pytest
import torch
from torch import nn

from nelbo.integer.executors import run_float
from nelbo.integer.freeze import choose_images, freeze
from nelbo.integer.operations.add import Add
from nelbo.integer.operations.convolution import Conv
from nelbo.integer.rescale import rescaled
from nelbo.integer.translate import translate


def run(program, tensors, z):
    """Returns what a network computes, and the largest size of each result."""
    sizes = {}
    result = run_float(program, tensors, z, -5.0, lambda name, value: sizes.update({name: float(value.abs().max())}))
    return result, sizes


def test_smaller_features_change_nothing(model):
    program, tensors = translate(model)
    tensors = {name: tensor.double() for name, tensor in tensors.items()}
    torch.manual_seed(1)
    z = torch.randn(4, *model.image_shape, dtype=torch.float64)
    expected, before = run(program, tensors, z)
    largest = max(before[f"{i}."] for i, op in enumerate(program.operations) if isinstance(op, Add | Conv))
    found, after = run(program, rescaled(program, tensors, before, largest / 4), z)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)  # But for the epsilon of norms.
    changed = {name for name in before if after[name] < 0.8 * before[name]}
    assert changed
    assert all(after[name] <= 1.001 * largest / 4 for name in changed)


@pytest.mark.parametrize("name", ["multiscale", "augmented"])
def test_a_network_whose_features_outgrew_its_norms_can_be_frozen(models, name):
    """Norms forgive how large features are, so nothing keeps training from letting them grow."""
    model = copy.deepcopy(models[name])
    with torch.no_grad():
        for layer_name, layer in model.net.named_modules():
            if isinstance(layer, nn.Conv2d) and not layer_name.startswith("conv_out"):
                for parameter in layer.parameters():
                    parameter *= 300 if "conv1" in layer_name else 1
    frozen = freeze(model, choose_images(models[name], None, 4), max_cost_bpd=1.0)
    assert frozen.header.cost is not None
    plain = freeze(models[name], choose_images(models[name], None, 4), max_cost_bpd=1.0)
    assert plain.header.cost is not None
    assert frozen.header.cost.bpd < 2 * plain.header.cost.bpd
