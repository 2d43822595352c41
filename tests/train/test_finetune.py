"""Fine-tuning begins with a trained model's weights, resumes like any run, and refuses a model that does not fit."""

import json
import re

import pytest
import torch

from nelbo.cli.main import main
from nelbo.diffusion.noise_schedule import Learned, Linear
from nelbo.models.folder import load, save
from nelbo.models.noise_schedule_config import settings_of
from nelbo.models.vdm import VDM
from nelbo.runtime.bundled import bundled_models
from nelbo.train.checkpoint import Checkpoints
from nelbo.train.finetune import digest, finetuning, take_over
from nelbo.train.loop import Trainer

SHORT = ("--set", "n_images=32", "--set", "batch_size=16", "--set", "warmup_images=0", "--set", "n_held_out=16")


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Returns the folder of a model whose every weight is its own."""
    torch.manual_seed(0)
    model = VDM(tiny("model.net.dropout=0").model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    folder = tmp_path_factory.mktemp("trained") / "model"
    save(model, folder, "A model.")
    return folder


@pytest.fixture
def finetune(trained, data_file, tmp_path):
    """Runs ``nelbo train --finetune`` into ``out`` with some more arguments."""

    def run(*arguments, out="run"):
        where = ("--finetune", str(trained), "--data", str(data_file), "--out", str(tmp_path / out))
        main(["train", *where, *SHORT, "--set", "precision=float32", *map(str, arguments)])
        return tmp_path / out

    return run


def test_it_begins_with_the_trained_weights_and_schedule(trained, images, world):
    start = load(trained)
    trainer = Trainer(finetuning(start.config), images, world, start=start)
    for model in (trainer.model, trainer.average.model):
        torch.testing.assert_close(model.state_dict(), start.state_dict(), rtol=0, atol=0)
    fresh = Trainer(finetuning(start.config), images, world)
    weights = [model.state_dict()["net.conv_out.weight"] for model in (fresh.model, start)]
    assert not torch.equal(*weights)


def test_another_schedule_is_begun_anew_and_the_same_one_is_taken_over(trained):
    start = load(trained)
    assert start.noise_schedule.gamma_0.item() != -13.3  # It has been learned.
    same = VDM(start.config.model_copy(update={"noise_schedule": settings_of(Linear)(learned=False)}))
    other = VDM(start.config.model_copy(update={"noise_schedule": settings_of(Learned)(n_units=4)}))
    for model in (same, other):
        take_over(model, start)
        torch.testing.assert_close(model.net.state_dict(), start.net.state_dict(), rtol=0, atol=0)
    assert same.noise_schedule.gamma_0 == start.noise_schedule.gamma_0
    assert other.noise_schedule.gamma_0.item() == -13.3


def test_the_command_trains_the_chain_it_is_told_and_measures_it(finetune, trained):
    out = finetune("--steps", "5", "--set", "model.noise_schedule.learned=false")
    config = json.loads((out / "config.json").read_text())
    assert (config["n_steps"], config["start"]) == (5, digest(load(trained)))
    state = Checkpoints(out / "checkpoints").load_latest()
    assert state is not None
    moved = (state["model"]["net.conv_out.weight"] - load(trained).state_dict()["net.conv_out.weight"]).abs().max()
    assert 0 < float(moved) <= 2 * 2.1e-4  # Two steps of Adam away.
    assert "bpd, T = 5" in (out / "model" / "README.md").read_text()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert "test_bpd" in lines[-1]


def test_the_same_command_again_goes_on_and_another_start_is_refused(finetune, trained, tmp_path, capsys):
    out = finetune("--steps", "5")
    before = (out / "metrics.jsonl").read_bytes()
    finetune("--steps", "5")
    assert (out / "metrics.jsonl").read_bytes() == before
    other = load(trained)
    with torch.no_grad():
        other.state_dict()["net.conv_out.weight"].add_(1.0)
    save(other, tmp_path / "other", "Another model.")
    with pytest.raises(SystemExit):
        finetune("--steps", "5", "--finetune", str(tmp_path / "other"))
    assert "holds another run (start: " in capsys.readouterr().err


def test_a_preset_gives_the_training_and_must_have_the_same_network(finetune, capsys):
    shape = '{"image_shape": [3, 8, 8], "prediction": "v", "net": %s}'
    net = '{"type": "unet_multiscale", "channels": [8, %d], "n_blocks_down": [1, 1], "n_blocks_up": [1, 1], '
    net += '"heads": [0, 0], "n_cond": 16, "dropout": 0.2}'
    same, other = (f"model={shape % (net % n)}" for n in (16, 20))
    out = finetune("--preset", "mnist-tiny", "--set", same)
    assert json.loads((out / "config.json").read_text())["learning_rate"] == 2e-3
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        finetune("--preset", "mnist-tiny", "--set", other, out="other")
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert "the run's model is another one (net.channels: [8, 16] -> [8, 20])" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--finetune", "nosuch"), "no model 'nosuch'"),
        (("--preset", "mnist-tiny", "--finetune", "cifar10-small"), "image_shape: [3, 32, 32] -> [1, 28, 28]"),
        (("--finetune", "cifar10-small", "--set", "model.prediction=v"), 'prediction: "eps" -> "v"'),
        (("--finetune", "cifar10-small", "--steps", "0"), "--steps is a number of steps from 1 on"),
        (("--finetune", "cifar10-small", "--steps", "-3"), "--steps is a number of steps from 1 on"),
        (("--finetune", "cifar10-small", "--set", "n_steps=0"), "n_steps"),
        (("--finetune", "cifar10-small", "--set", "model.noise_schedule.gamma_1=-20"), "increases"),
        (("--preset", "mnist-tiny", "--set", 'model.noise_schedule={"type":"table","gammas":[0,0]}'), "increasing"),
        ((), "needs --preset NAME, --config FILE, or --finetune MODEL"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_data_are_read(arguments, problem, tmp_path, capsys):
    data, out = str(tmp_path / "no-such-data.npz"), tmp_path / "run"
    with pytest.raises(SystemExit) as caught:
        main(["train", *arguments, "--data", data, "--out", str(out)])
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert problem in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_a_bundled_model_can_be_fine_tuned_as_it_is(capsys):
    main(["train", "--finetune", "cifar10-small", "--steps", "16", "--dry-run"])
    shown = capsys.readouterr().out
    assert re.search(r"^n_steps +16$", shown, re.MULTILINE)
    assert re.search(r"^whole run +2000 steps, 64000 images", shown, re.MULTILINE)
    assert "cifar10-small" in bundled_models()
