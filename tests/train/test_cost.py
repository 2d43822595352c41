"""What a run is said to cost: the published models' sizes, and the same numbers as a real network shows."""

import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nelbo.errors import NelboError
from nelbo.train.config import override
from nelbo.train.config_file import as_table
from nelbo.train.cost import activation_bytes, forward_flop, n_parameters, run_cost
from nelbo.train.presets import PRESETS, preset


def number(text, line):
    found = re.search(rf"^{line} +([\d.e+]+)", text, re.MULTILINE)
    assert found, text
    return float(found[1])


@pytest.mark.parametrize(
    ("name", "millions"),
    [("cifar10", 30.58), ("cifar10-aug", 139.29), ("imagenet32", 122.14), ("imagenet64", 237.60)],
)
def test_the_published_presets_have_the_published_size(name, millions):
    assert round(n_parameters(preset(name)) / 1e6, 2) == millions


def test_the_published_cifar10_run_costs_160_gflop_an_image():
    text = as_table(preset("cifar10"), run_cost(preset("cifar10")))
    assert number(text, "parameters") == 30.58
    assert number(text, "training") == pytest.approx(160, rel=0.02)
    assert number(text, "whole run") == 10_000_000


def test_other_presets_describe_themselves():
    for name in ("cifar10-small", "mnist-tiny"):
        text = as_table(PRESETS[name], run_cost(PRESETS[name], 100.0))
        assert all(number(text, line) > 0 for line in ("parameters", "network evaluation", "training", "memory"))


def test_the_numbers_are_those_of_a_real_network(tiny):
    config = tiny()
    net = config.model.net.build(3)
    assert n_parameters(config) == sum(p.numel() for p in net.parameters())
    images, gamma = torch.zeros(1, 3, 8, 8), torch.zeros(1)
    with FlopCounterMode(display=False) as counter:
        net(images, gamma)
    assert forward_flop(config) == counter.get_total_flops()
    kept = {}
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # Held, so that no address is used again.
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(images, gamma)
    real = sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in weights)
    assert activation_bytes(config) == real


def test_work_grows_with_the_image_and_size_does_not():
    small, large = (
        override(preset("cifar10"), [f"model.image_shape=[3,{n},{n}]", "model.net.n_blocks=2"]) for n in (8, 16)
    )
    assert n_parameters(small) == n_parameters(large)
    without_attention = forward_flop(large) / forward_flop(small)
    assert 4 <= without_attention < 5  # the attention in the middle is quadratic in pixels


@pytest.mark.parametrize(
    "setting",
    ["model.net.heads=[3,0]", "model.net.channels=[8]", "model.image_shape=[3,9,9]", "model.net.patch=3"],
)
def test_settings_that_make_no_network_are_refused_in_one_line(setting, tiny):
    with pytest.raises(NelboError) as caught:
        run_cost(tiny(setting))
    assert "\n" not in str(caught.value)
