"""Models that differ have fingerprints that differ, whatever they differ in; the same model has the same one again."""

import functools
import itertools

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


net = network()


def of_global(x, t):
    return net(x)


def helped(x, t):
    return helper(x)


def helper(x):
    return 2 * x


class Wrapper:
    """An object in the place of a function."""

    def __init__(self, inner, scale):
        self.inner, self.scale = inner, scale

    def __call__(self, x, t):
        return self.scale * self.inner(x)


class Scaled(nn.Module):
    """A network whose weights do not say all."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.inner = scale, network()

    def forward(self, x, t):
        return self.scale * self.inner(x)


def closing_over(inner):
    return lambda x, t: inner(x) if callable(inner) else inner * x


MAKE = {
    "x": lambda: lambda x, t: x,
    "-x": lambda: lambda x, t: -x,
    "2 x": lambda: lambda x, t: 2 * x,
    "3 x": lambda: lambda x, t: 3 * x,
    "nested": lambda: lambda x, t: [y * 2 for y in (x,)][0],  # noqa: RUF015
    "nested, other": lambda: lambda x, t: [y * 3 for y in (x,)][0],  # noqa: RUF015
    "default": lambda: lambda x, t, scale=2.0: scale * x,
    "default, other": lambda: lambda x, t, scale=2.5: scale * x,
    "set": lambda: lambda x, t: x if "a" in {"a", "b", "c"} else t,
    "number": lambda: closing_over(0.5),
    "number, other": lambda: closing_over(0.25),
    "tensor": lambda: closing_over(torch.ones(1)),
    "tensor, other": lambda: closing_over(torch.zeros(1)),
    "array": lambda: closing_over(np.ones(1)),
    "closure": lambda: closing_over(network(0)),
    "closure, other weights": lambda: closing_over(network(1)),
    "partial": lambda: functools.partial(lambda scale, x, t: scale * x, 2),
    "partial, other": lambda: functools.partial(lambda scale, x, t: scale * x, 3),
    "object": lambda: Wrapper(network(0), 1),
    "object, other scale": lambda: Wrapper(network(0), 2),
    "object, other weights": lambda: Wrapper(network(1), 1),
    "method": lambda: Wrapper(network(0), 1).__call__,
    "module": lambda: Scaled(1),
    "module, other scale": lambda: Scaled(2),
    "builtin": lambda: torch.add,
}


def of(function, **settings):
    return fingerprint(nelbo.from_callable(function, BETAS, SHAPE, **settings))


def test_functions_that_differ_have_fingerprints_that_differ():
    found = {name: of(make()) for name, make in MAKE.items()}
    assert found == {name: of(make()) for name, make in MAKE.items()}  # Made anew, each is what it was.
    alike = [pair for pair in itertools.combinations(found, 2) if found[pair[0]] == found[pair[1]]]
    assert not alike


def test_a_plain_function_is_tied_to_the_network_it_names(monkeypatch):
    """The example of docs/interop.md, where the network is a global."""
    before = of(of_global)
    monkeypatch.setitem(globals(), "net", network(0))
    assert of(of_global) == before
    monkeypatch.setitem(globals(), "net", network(1))
    assert of(of_global) != before


def test_a_function_is_tied_to_those_it_calls_beside_it(monkeypatch):
    before = of(helped)
    monkeypatch.setitem(globals(), "helper", of_global)
    assert of(helped) != before


def test_a_network_that_gets_its_weights_later_is_the_one_that_had_them():
    late, early = network(0), network(1)
    model = nelbo.from_callable(late, BETAS, SHAPE)
    late.load_state_dict(early.state_dict())
    assert fingerprint(model) == of(early)


SETTINGS = [
    {},
    {"prediction": "x"},
    {"prediction": "v"},
    {"variance": "fixed_large"},
    {"variance": "learned_range"},
    {"clip": None},
    {"clip": 0.9},
    {"n_classes": 3},
]


def test_what_the_output_means_counts():
    function = MAKE["x"]()
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
    one, other = (nelbo.from_callable(MAKE[name](), BETAS, SHAPE) for name in ("2 x", "3 x"))
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
