"""A result says where it comes from, and two different origins say different things."""

import json
from importlib.metadata import version

import numpy as np
import pytest

import nelbo
from nelbo.data import from_array
from nelbo.data.fitting import Fit, fit_images
from nelbo.models.fingerprint import fingerprint
from nelbo.models.provenance import command, data_digest, provenance


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (2000, 4, 4, 3), dtype=np.uint8)


def test_it_holds_all_that_is_promised_and_is_json(pixels):
    model = nelbo.load("mnist-tiny")
    found = json.loads(json.dumps(provenance(model, "mnist-tiny", from_array(pixels, "x.npz"), 3)))
    assert found["model"] == "mnist-tiny"
    assert found["fingerprint"] == fingerprint(model)
    assert (found["version"], found["seed"]) == (version("nelbo"), 3)
    assert found["data"]["path"] == "x.npz"
    assert (found["data"]["n_images"], found["data"]["shape"]) == (2000, [3, 4, 4])
    assert found["device"].startswith("cpu (")
    assert provenance(model, "mnist-tiny")["data"] is None


def test_the_digest_is_that_of_the_images_wherever_they_lie(pixels):
    images = from_array(pixels)
    assert data_digest(images) == data_digest(from_array(pixels.copy(), "other"))
    assert data_digest(images) == data_digest(images.select(range(2000)))
    others = [images.select(range(1999)), images.select(range(1999, -1, -1)), fit_images(images, Fit(4, 2))]
    assert len({data_digest(each) for each in (images, *others)}) == 4
    changed = pixels[:1000].copy()
    changed[500] ^= 1
    assert data_digest(from_array(changed)) != data_digest(from_array(pixels[:1000]))


def test_the_preparation_is_said(pixels):
    found = provenance(nelbo.load("mnist-tiny"), "m", fit_images(from_array(pixels, "photos"), Fit(4, 2)))
    assert found["data"]["path"] == "photos --resize 4 --crop 2"


@pytest.mark.parametrize(
    ("argv", "typed"),
    [
        (["/x/bin/nelbo", "eval", "my model"], "nelbo eval 'my model'"),
        (["/x/nelbo/__main__.py", "info"], "nelbo info"),
        (["runs/demo.py", "--out", "x"], "demo.py --out x"),
    ],
)
def test_the_command_is_as_it_would_be_typed(argv, typed, monkeypatch):
    monkeypatch.setattr("sys.argv", argv)
    assert command() == typed
