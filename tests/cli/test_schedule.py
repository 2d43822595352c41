"""nelbo schedule: from images or a table to schedules that nelbo eval and nelbo sample take."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from nelbo.cli.main import main
from nelbo.models import folder as model_folder
from nelbo.models.config import ModelConfig
from nelbo.models.vdm import VDM

from fixtures.networks import random_model, small_multiscale


def save_model(folder: Path, seed: int = 0) -> Path:
    model = random_model(ModelConfig(image_shape=(3, 8, 8), net=small_multiscale(), prediction="v"), seed=seed)
    model_folder.save(model, folder, "# A test\n")
    return folder


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    images = (128 + 30 * rng.standard_normal((6, 8, 8, 3)) + 60 * rng.standard_normal((6, 1, 1, 3))).clip(0, 255)
    np.savez(tmp_path / "images.npz", images=images.astype(np.uint8))
    return save_model(tmp_path / "model"), tmp_path / "images.npz", tmp_path / "out"


def run(*arguments):
    main([str(argument) for argument in arguments])


def fails(capsys, *arguments, status=1):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == status
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    return message


SMALL = ("--gammas", 12, "--images", 4, "--budgets", "2,4", "--precision", "float32")


def test_schedules_from_images_are_evaluated_and_sampled(files, capsys):
    model, images, out = files
    run("schedule", model, "--data", images, "--out", out, *SMALL)
    printed = capsys.readouterr().out
    for name in ("optimal, spectral", "optimal, posterior", "even, spectral", "cosine, spectral", "quadratic"):
        assert name in printed
    assert "minimise the bound; for pictures use a sampler" in printed
    found = json.loads((out / "schedules.json").read_text())
    assert set(found["schedules"]) == {"2", "4"}
    assert found["optimal"]["spectral"][1] <= min(values[1] for values in found["baselines"].values())
    assert (out / "schedules.png").read_bytes()[:4] == b"\x89PNG"
    run("eval", model, "--data", images, "--steps", out / "4.safetensors", "--json", out / "bound.json")
    measured = json.loads((out / "bound.json").read_text())
    assert measured["n_steps"] == 4
    assert measured["bpd"] == pytest.approx(found["schedules"]["4"]["prediction"]["bpd"], rel=0.2)
    run("sample", model, "--steps", out / "4.safetensors", "--seeds", "0-2", "--out", out / "samples")
    assert (out / "samples" / "grid.png").exists()


def test_a_table_serves_a_second_search(files, capsys):
    model, images, out = files
    run("schedule", model, "--data", images, "--out", out, *SMALL)
    first = json.loads((out / "schedules.json").read_text())
    again = out.parent / "again"
    run("schedule", model, "--table", out / "errors.safetensors", "--out", again, "--budgets", "2,4,8")
    second = json.loads((again / "schedules.json").read_text())
    assert second["optimal"]["spectral"][:2] == pytest.approx(first["optimal"]["spectral"], rel=1e-6)
    assert math.isfinite(second["optimal"]["spectral"][2])


def test_the_same_command_goes_on_with_its_table(files, capsys, monkeypatch):
    model, images, out = files
    run("schedule", model, "--data", images, "--out", out, *SMALL)
    whole = (out / "schedules.json").read_text()
    calls = []
    monkeypatch.setattr(VDM, "denoise", lambda *arguments: calls.append(1))
    run("schedule", model, "--data", images, "--out", out, *SMALL)
    assert not calls
    assert (out / "schedules.json").read_text() == whole


def test_a_table_of_other_images_is_not_taken_for_theirs(files, capsys, tmp_path):
    model, images, out = files
    run("schedule", model, "--data", images, "--out", out, *SMALL)
    before = (out / "errors.safetensors").read_bytes()
    np.savez(tmp_path / "others.npz", images=255 - np.load(images)["images"])
    for changed in (("--data", tmp_path / "others.npz", *SMALL), ("--data", images, *SMALL, "--images", 6)):
        message = fails(capsys, "schedule", model, "--out", out, *changed)
        assert "is of other images, or of more or fewer" in message
        assert "choose another --out" in message
    assert (out / "errors.safetensors").read_bytes() == before


def test_fixed_ends_are_the_papers_setting(files, capsys):
    model, images, out = files
    run("schedule", model, "--data", images, "--out", out, *SMALL, "--fixed-ends", "--reverse", "posterior")
    for budget in ("2", "4"):
        schedule = json.loads((out / "schedules.json").read_text())["schedules"][budget]
        assert schedule["exit"] == "decoder"
        assert schedule["gammas"][0] == pytest.approx(-13.3)
        assert schedule["gammas"][-1] == pytest.approx(5.0)
        assert len(schedule["gammas"]) == int(budget) + 1


def test_what_cannot_be_done_is_said_in_one_line(files, capsys, tmp_path):
    model, images, out = files
    run("schedule", model, "--data", images, "--out", out, *SMALL)
    capsys.readouterr()
    other = save_model(tmp_path / "other", seed=1)
    table = out / "errors.safetensors"
    start = ("schedule", model, "--out", tmp_path / "new")
    assert "give images" in fails(capsys, *start)
    assert "another model" in fails(capsys, "schedule", other, "--table", table, "--out", tmp_path / "new")
    assert "from 1 to 12" in fails(capsys, *start, "--table", table, "--budgets", "13")
    assert "--budgets" in fails(capsys, *start, "--table", table, "--budgets", "0")
    assert "--budgets" in fails(capsys, *start, "--table", table, "--budgets", "many")
    assert "no exit 'door'" in fails(capsys, *start, "--table", table, "--budgets", "2", "--exits", "door")
    assert "no learned variances" in fails(
        capsys, *start, "--table", table, "--budgets", "2", "--reverse", "learned-range"
    )
    assert "no error table at" in fails(capsys, *start, "--table", tmp_path / "none")
    assert "not both" in fails(capsys, *start, "--table", table, "--data", images)
    assert "--images" in fails(capsys, *start, "--data", images, "--images", 0)
    assert "made for model" in fails(capsys, "eval", other, "--data", images, "--steps", out / "4.safetensors")
    assert "is damaged or no time schedule" in fails(capsys, "eval", model, "--data", images, "--steps", images)
    assert not (tmp_path / "new").exists()
