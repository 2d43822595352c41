"""The scripts that reproduce the paper's claims do what they say, on a model and images of nearly no size."""

import json
import sys

import numpy as np
import pytest
import torch

from nelbo.data import from_array
from nelbo.errors import NelboError
from nelbo.models.config import ModelConfig
from nelbo.models.folder import load, save
from nelbo.models.vdm import VDM

from fixtures.networks import random_model, small_multiscale


@pytest.fixture(scope="module")
def images():
    smooth = np.random.default_rng(0).integers(0, 256, (300, 1, 1, 3)) + np.zeros((300, 8, 8, 3))
    return from_array(smooth.astype(np.uint8), "smooth")


@pytest.fixture
def folder(tmp_path):
    model = random_model(ModelConfig(image_shape=(3, 8, 8), net=small_multiscale(), prediction="v"))
    save(model, tmp_path / "model", "A model.")
    return tmp_path / "model"


@pytest.mark.slow
def test_the_learned_schedule_has_less_variance_than_the_line(script, folder, images, tmp_path):
    module = script("runs/schedule-variance.py")
    setting = module.Setting(n_images=32, n_gammas=64, n_direct=256, n_steps=300, batch_size=16, n_units=32)
    text = module.main(load(folder), images, images, tmp_path, setting, True)
    found = json.loads((tmp_path / "variance.json").read_text())
    rows = found["schedules"]
    assert all(name in text for name in rows)
    assert rows["learned"]["table_per_example"] < 0.8 * rows["log-SNR linear"]["table_per_example"]
    assert rows["optimum"]["table_per_example"] < 1.05 * min(row["table_per_example"] for row in rows.values())
    for name in ("learned", "log-SNR linear", "optimum"):  # The others' few large values need many more images.
        assert rows[name]["table_per_example"] == pytest.approx(rows[name]["direct_per_example"], rel=0.5)
    gammas = found["learned_gammas"]
    assert (gammas[0], gammas[-1]) == (-13.3, pytest.approx(5.0))
    assert (tmp_path / "variance.png").stat().st_size > 10_000


def test_published_schedules_are_mapped_onto_the_ends(script):
    module = script("runs/schedule-variance.py")
    for alphas in (module.beta_linear_alphas(), module.cosine_alphas()):
        assert bool((alphas.diff() < 0).all())
        schedule = module.rescaled(alphas, -13.3, 5.0)
        assert (schedule.gamma_0.item(), schedule.gamma_1.item()) == pytest.approx((-13.3, 5.0))


@pytest.mark.slow
def test_the_bound_by_steps_has_paired_errors(script, folder, images, tmp_path):
    module = script("runs/steps.py")
    text = module.main([str(folder), str(folder)], images, tmp_path, 0)
    rows = next(iter(json.loads((tmp_path / "steps.json").read_text())["models"].values()))
    assert [row["T"] for row in rows] == ["10", "100", "250", "500", "1000", "10000", "inf"]
    assert rows[-1]["excess"] == rows[-1]["excess_error"] == 0
    assert rows[-2]["excess_error"] < 0.2 * rows[-2]["bpd_error"]
    assert rows[0]["bpd"] > rows[1]["bpd"] > rows[-1]["bpd"]
    assert "saves 0.0000 ± 0.0000" in text


@pytest.mark.slow
def test_the_ablation_trains_four_runs(script, images, tmp_path, monkeypatch):
    module = script("runs/fourier.py")
    stages = '"channels": [8, 16], "n_blocks_down": [1, 1], "n_blocks_up": [1, 1], "heads": [0, 0], "n_cond": 16'
    monkeypatch.setattr(module, "STAGES", stages)
    monkeypatch.setattr(module, "COMMON", (*module.COMMON, "model.image_shape=[3,8,8]"))
    text = module.main(images, tmp_path, 128, 32, 2, True)
    curves = json.loads((tmp_path / "fourier.json").read_text())["curves"]
    assert len(curves) == len(text.splitlines()) == 4
    assert all([point["n_images"] for point in curve] == [64, 128] for curve in curves.values())
    assert len({curve[-1]["bpd"] for curve in curves.values()}) == 4
    assert (tmp_path / "fourier.png").exists()


@pytest.mark.slow
def test_the_swirl_is_learned(script, tmp_path):
    module = script("runs/swirl.py")
    points = module.swirl(1000)
    assert points.dtype == torch.uint8
    found = module.main(tmp_path, 150, n_side=16)
    assert found["bpd"] < 8.5  # 8 is a uniform density, and what it begins at is above 12.
    assert (tmp_path / "swirl.png").exists()
    assert json.loads((tmp_path / "swirl.json").read_text())["n_updates"] == 150


def test_without_matplotlib_a_figure_says_what_to_install(script, monkeypatch):
    figures = script("runs/_figures.py")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(NelboError, match=r"figures need matplotlib: pip install 'nelbo\[plot\]'"):
        figures.panels(1)


def test_every_recipe_differs_from_the_base_and_can_be_built(script):
    module = script("runs/recipe.py")
    base = module.override(module.preset("cifar10-small"), module.BASE)
    configs = {name: module.override(base, changes) for name, changes in module.VARIANTS.items()}
    assert configs.pop("base") == base
    texts = {name: config.model_dump_json() for name, config in configs.items()}
    assert len({base.model_dump_json(), *texts.values()}) == 1 + len(configs)
    for config in configs.values():
        VDM(config.model)


def test_recipes_are_compared_on_the_same_noise_levels(script):
    module = script("runs/recipe.py")
    config = module.preset("cifar10-small").model.noise_schedule
    assert module.between(torch.tensor([-13.3, 5.0])).grid(len(config.gammas) - 1).tolist() == pytest.approx(
        config.gammas
    )
    assert module.between(torch.tensor([-12.0, 4.0])).grid(1).tolist() == pytest.approx([-12.0, 4.0])


def test_a_mosaic_holds_every_image_once(script):
    module = script("runs/codec.py")
    rows = np.arange(7 * 2 * 3 * 3, dtype=np.uint8).reshape(7, 2, 3, 3)
    mosaic = module.mosaic(rows)
    assert mosaic.shape == (6, 9, 3)
    tiles = mosaic.reshape(3, 2, 3, 3, 3).swapaxes(1, 2).reshape(9, 2, 3, 3)
    assert np.array_equal(tiles[:7], rows)
