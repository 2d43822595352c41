"""Another program's model runs in bfloat16 by itself only where that does not change its bound."""

import pytest
import torch
from torch import nn

import nelbo
from nelbo.models import precision
from nelbo.models.precision import TOLERANCE, bfloat16_excess, precision_of

SHAPE = (1, 8, 8)
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
IMAGES = nelbo.from_array(torch.randint(256, (6, *SHAPE), generator=torch.Generator().manual_seed(0)).to(torch.uint8))


def reads(layer):
    """Returns a model that takes its latent for noise, through one layer that autocast would run in bfloat16."""
    return nelbo.from_callable(lambda x, t: layer(x), BETAS, SHAPE, clip=None)


def identity_conv():
    layer = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(layer.weight)
    return layer


@pytest.fixture
def has_bfloat16(monkeypatch):
    monkeypatch.setattr(precision, "fastest_precision", lambda device: "bfloat16")


def test_a_model_that_bears_bfloat16_gets_it(has_bfloat16):
    model = reads(identity_conv())  # Its only layer stays in float32.
    assert abs(bfloat16_excess(model, IMAGES)) < TOLERANCE
    assert precision_of(model, "auto", IMAGES, 5000) == "bfloat16"


def test_one_that_does_not_gets_float32(has_bfloat16, monkeypatch):
    images = nelbo.from_array(torch.full((6, *SHAPE), 200, dtype=torch.uint8))
    layer = identity_conv()

    def closed_form(x, t):  # The noise of this one image, from a latent that bfloat16 has rounded.
        bar = (1 - BETAS).cumprod(0)[t][:, None, None, None].float()
        rounded = torch.nn.functional.linear(layer(x), torch.eye(8))
        return (rounded - bar.sqrt() * (200 / 127.5 - 1)) / (1 - bar).sqrt()

    model = nelbo.from_callable(closed_form, BETAS, SHAPE)
    assert bfloat16_excess(model, images) > TOLERANCE
    assert precision_of(model, "auto", images, 5000) == "float32"
    assert precision_of(model, "bfloat16", images, 5000) == "bfloat16"


def test_without_images_or_in_a_short_run_it_is_float32(has_bfloat16):
    model = reads(identity_conv())
    assert precision_of(model, "auto") == "float32"
    assert precision_of(model, "auto", IMAGES, 10) == "float32"


def test_models_of_ours_have_the_fastest():
    from nelbo.runtime.device import fastest_precision

    model = nelbo.load("mnist-tiny")
    assert precision_of(model, "auto") == fastest_precision(model.device)
