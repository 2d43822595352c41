"""The bundled models and images are what README.md says they are."""

import json
from pathlib import Path

import pytest

import nelbo
from nelbo.evaluation import evaluate
from nelbo.runtime.bundled import bundled_images, bundled_models

ROOT = Path(__file__).parents[1]
LIMITS = {  # The most bytes of weights, the most bits per dimension.
    "cifar10-small": (6_000_000, 3.40),
    "mnist-tiny": (1_000_000, 1.6),
}


def stated(name):
    return json.loads((bundled_models()[name] / "test.json").read_text())


def test_every_bundled_model_has_its_limits():
    assert set(bundled_models()) == set(LIMITS)


@pytest.mark.parametrize("name", LIMITS)
def test_the_weights_are_small_enough_to_ship(name):
    assert (bundled_models()[name] / "model.safetensors").stat().st_size <= LIMITS[name][0]


@pytest.mark.parametrize("name", LIMITS)
def test_the_stated_bound_is_of_the_whole_test_set_and_good_enough(name):
    assert stated(name)["n_images"] == 10_000
    assert stated(name)["n_steps"] is None
    assert stated(name)["precision"] == "float32"
    assert stated(name)["bpd"] <= LIMITS[name][1]


@pytest.mark.parametrize("name", LIMITS)
def test_readme_and_card_state_the_measured_bound(name):
    figure = f"{stated(name)['bpd']:.4f} ± {stated(name)['standard_error']:.4f}"
    assert figure in (ROOT / "README.md").read_text()
    assert figure in (bundled_models()[name] / "README.md").read_text()


def test_the_bundled_images_agree_with_the_stated_bound():
    images = nelbo.open_images("cifar10-test-256")
    result = evaluate(nelbo.load("cifar10-small"), images, n_passes=2, precision="float32")
    assert len(images) == 256
    assert abs(result.bpd - stated("cifar10-small")["bpd"]) < 4 * result.standard_error
    assert result.standard_error < 0.1


def test_bfloat16_evaluation_gives_the_same_bound():
    model, images = nelbo.load("cifar10-small"), nelbo.open_images("cifar10-test-256").select(range(64))
    results = [evaluate(model, images, precision=precision).bpd for precision in ("float32", "bfloat16")]
    assert results[1] == pytest.approx(results[0], abs=0.005)


def test_every_bundled_name_opens():
    assert set(bundled_images()) == {"cifar10-test-256"}
    shapes = {name: nelbo.load(name).image_shape for name in bundled_models()}
    assert shapes == {"cifar10-small": (3, 32, 32), "mnist-tiny": (1, 28, 28)}
