"""The bundled model and images are what README.md says they are."""

import json
from pathlib import Path

import pytest

import nelbo
from nelbo.bundled import bundled_images, bundled_models
from nelbo.evaluation import evaluate

ROOT = Path(__file__).parents[1]
MODEL = bundled_models()["cifar10-small"]
STATED = json.loads((MODEL / "test.json").read_text())


def test_the_weights_are_small_enough_to_ship():
    assert (MODEL / "model.safetensors").stat().st_size <= 6_000_000


def test_the_stated_bound_is_of_the_whole_test_set_and_good_enough():
    assert STATED["n_images"] == 10_000
    assert STATED["n_steps"] is None
    assert STATED["bpd"] <= 3.60


def test_readme_and_card_state_the_measured_bound():
    figure = f"{STATED['bpd']:.4f} ± {STATED['standard_error']:.4f}"
    assert figure in (ROOT / "README.md").read_text()
    assert figure in (MODEL / "README.md").read_text()


def test_the_bundled_images_agree_with_the_stated_bound():
    images = nelbo.open_images("cifar10-test-256")
    result = evaluate(nelbo.load("cifar10-small"), images, n_passes=2, precision="float32")
    assert len(images) == 256
    assert abs(result.bpd - STATED["bpd"]) < 4 * result.standard_error
    assert result.standard_error < 0.1


def test_bfloat16_evaluation_gives_the_same_bound():
    model, images = nelbo.load("cifar10-small"), nelbo.open_images("cifar10-test-256").select(range(64))
    results = [evaluate(model, images, precision=precision).bpd for precision in ("float32", "bfloat16")]
    assert results[1] == pytest.approx(results[0], abs=0.005)


def test_every_bundled_name_opens():
    assert set(bundled_images()) == {"cifar10-test-256"}
    for name in bundled_models():
        assert nelbo.load(name).image_shape == (3, 32, 32)
