"""Models that differ have fingerprints that differ, whatever they differ in; the same model has the same one again."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

import nelbo
from nelbo.errors import NelboError
from nelbo.interop.improved_diffusion import ImprovedDiffusionConfig
from nelbo.models.fingerprint import fingerprint
from nelbo.runtime.bundled import bundled_models
from nelbo.time_schedule.error_table import load_table
from nelbo.time_schedule.gather import error_table

SHAPE = (3, 4, 4)
BETAS = [0.0004, 0.01, 0.05, 0.2, 0.4]


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Conv2d(3, 3, 1)


class Scaled(nn.Module):
    """A network whose weights do not say all."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.inner = scale, network()

    def forward(self, x, t):
        return self.scale * self.inner(x)


def of(function, **settings):
    return fingerprint(nelbo.from_callable(function, BETAS, SHAPE, **settings))


def closing_over(inner):
    return lambda x, t: inner(x) if callable(inner) else inner * x


def test_weights_and_settings_count_whatever_function_they_are_in():
    same = [closing_over(network(0)), functools.partial(lambda net, x, t: net(x), network(0)), [network(0)][0:1]]
    by_index = same.pop()
    same.append(lambda x, t: by_index[0](x))
    assert len({of(function) for function in same}) == 1
    others = [closing_over(network(1)), Scaled(1), Scaled(2), closing_over(torch.ones(1)), closing_over(np.zeros(1))]
    assert len({of(function) for function in [same[0], *others]}) == 1 + len(others)


def test_a_name_tells_functions_apart_that_hide_their_weights():
    one, other, unnamed = (of(lambda x, t: 2 * x, **name) for name in ({"name": "a"}, {"name": "b"}, {}))
    assert len({one, other, unnamed}) == 3
    assert of(lambda x, t: x + x, name="a") == one


def test_a_network_that_gets_its_weights_later_is_the_one_that_had_them():
    late, early = network(0), network(1)
    model = nelbo.from_callable(lambda x, t: late(x), BETAS, SHAPE)
    late.load_state_dict(early.state_dict())
    assert fingerprint(model) == of(lambda x, t: early(x))


SETTINGS = [
    {},
    {"prediction": "x"},
    {"prediction": "v"},
    {"variance": "fixed_large"},
    {"variance": "learned_range"},
    {"clip": None},
    {"clip": 0.9},
    {"n_classes": 3},
    {"n_classes": 3, "null_class": 3},
    {"n_classes": 3, "null_class": 3, "guidance": 2.0},
    {"null_class": 3},
    {"pixel_range": (0.0, 1.0)},
    {"pixel_range": (-0.5, 0.5)},
    {"time": "index/T"},
    {"time": lambda t: 2 * t},
]


def test_what_the_output_means_counts():
    def function(x, t, labels=None):
        return x

    assert len({of(function, **settings) for settings in SETTINGS}) == len(SETTINGS)
    ended = nelbo.from_callable(function, [*BETAS, 1.0], SHAPE)  # One timestep more, of the same gammas.
    assert fingerprint(ended) != of(function)


CONFIG = {
    "ddpm": {"image_shape": [3, 8, 8], "variance": "fixed_large"},
    "net": {"n_channels": 32, "multipliers": [1], "n_blocks": 1, "attention": [1], "modulated": True},
    "n_steps": 100,
    "schedule": "linear",
    "heads": 4,
    "heads_up": 4,
    "rescale_timesteps": True,
}


@pytest.mark.parametrize(
    "change",
    [
        {"heads": 2},
        {"heads_up": 2},
        {"rescale_timesteps": False},
        {"ddpm": {**CONFIG["ddpm"], "prediction": "x"}},
        {"ddpm": {**CONFIG["ddpm"], "variance": "fixed_small"}},
    ],
)
def test_what_an_import_was_told_counts(change):
    one, other = (ImprovedDiffusionConfig.model_validate({**CONFIG, **each}).build() for each in ({}, change))
    other.load_state_dict(one.state_dict())
    again = ImprovedDiffusionConfig.model_validate(CONFIG).build()
    again.load_state_dict(one.state_dict())
    assert fingerprint(one) == fingerprint(again)
    assert fingerprint(one) != fingerprint(other)


def test_a_schedule_and_a_table_of_one_function_are_refused_for_another():
    images = torch.randint(0, 256, (2, *SHAPE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    one, other = (nelbo.from_callable(closing_over(network(seed)), BETAS, SHAPE) for seed in (0, 1))
    table = error_table(one, images, precision="float32")
    schedule = nelbo.optimal_schedules(table, [2])[2]
    schedule.check_model(one)
    with pytest.raises(NelboError, match="was made for model"):
        schedule.check_model(other)
    with pytest.raises(NelboError, match="is of another model"):
        error_table(other, images, precision="float32", start=table)


@pytest.mark.parametrize("name", bundled_models())
def test_models_of_ours_keep_the_fingerprints_that_their_tables_hold(name):
    table = load_table(bundled_models()[name] / "errors.safetensors")
    assert table.subject.fingerprint == fingerprint(nelbo.load(name))
