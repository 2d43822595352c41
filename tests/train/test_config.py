"""A run's configuration: durations in images, settings from the command line, and what a resumed run may not change."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest

from nelbo.cli.main import main
from nelbo.data import from_array
from nelbo.errors import NelboError
from nelbo.models.config import ModelConfig
from nelbo.train.config import TrainConfig, differences, override
from nelbo.train.inputs import hold_out
from nelbo.train.loop import Intervals, Trainer, learning_rate
from nelbo.train.presets import PRESETS, preset
from nelbo.train.run import Run
from nelbo.train.run_folder import claim_folder


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name):
    assert TrainConfig.model_validate_json(preset(name).model_dump_json()) == preset(name)
    assert override(preset(name), []) == preset(name)


def test_settings_reach_nested_fields_and_the_last_one_counts():
    config = override(preset("cifar10"), ["model.net.n_blocks=3", "batch_size=7", "batch_size=8", "decay=cosine"])
    assert (config.batch_size, config.decay) == (8, "cosine")
    assert differences(preset("cifar10").model_dump(mode="json"), config.model_dump(mode="json")) == [
        "batch_size: 128 -> 8",
        'decay: "constant" -> "cosine"',
        "model.net.n_blocks: 32 -> 3",
    ]


@pytest.mark.parametrize(
    "setting",
    [
        "nonsense",
        "no_such_field=1",
        "model.net.no_such_field=1",
        "model.no_such.n_blocks=1",
        "batch_size.deeper.still=1",
        "model.net.fourier.0.1=3",
        "=3",
        "batch_size=0",
        "batch_size=many",
        "batch_size=1.5",
        "n_images=0",
        "n_images=-5",
        "n_steps=0",
        "learning_rate=NaN",
        "learning_rate=0",
        "betas=[0.9,2]",
        "betas=[-0.1,0.9]",
        "betas=[0.9]",
        "ema_rate=1",
        "seed=-1",
        "n_held_out=-1",
        "precision=float8",
        "decay=step",
        "optimizer=sgd",
        "model=null",
        "model.image_shape=[3,8]",
        "model.net.type=transformer",
        "model.noise_schedule.type=linear2",
        "model.decoder=gaussian",
    ],
)
def test_a_bad_setting_is_one_line(setting):
    with pytest.raises(NelboError) as caught:
        override(preset("cifar10"), [setting])
    assert "\n" not in str(caught.value)
    assert setting.partition("=")[0].split(".")[0] in str(caught.value)


def test_an_unknown_preset_names_those_there_are():
    with pytest.raises(NelboError, match=r"no preset 'nosuch'; there are cifar10-small, .*imagenet64"):
        preset("nosuch")


@pytest.mark.parametrize("name", ["log", "checkpoint", "evaluate"])
@pytest.mark.parametrize("steps", [0, -1])
def test_an_interval_is_at_least_a_step(name, steps):
    with pytest.raises(NelboError, match=f"one {name} .* at least 1 step, got {steps}"):
        Intervals(**{name: steps})


@pytest.mark.parametrize(("n_images", "n_updates"), [(1, 1), (16, 1), (17, 2), (160, 10)])
def test_a_run_sees_at_least_its_images(n_images, n_updates):
    assert TrainConfig(model=ModelConfig(), n_images=n_images, batch_size=16).n_updates == n_updates


def test_the_learning_rate_rises_over_the_warm_up_then_stays_or_falls():
    constant = TrainConfig(n_images=16_000, batch_size=16, warmup_images=160, learning_rate=0.5)
    rates = [learning_rate(constant, step) for step in range(1000)]
    assert rates[:10] == pytest.approx([0.05 * k for k in range(1, 11)])
    assert set(rates[9:]) == {0.5}
    cosine = constant.model_copy(update={"decay": "cosine", "warmup_images": 0})
    rates = [learning_rate(cosine, step) for step in range(1001)]
    assert rates[0] == 0.5
    assert rates[250] == pytest.approx(0.5 * math.cos(math.pi / 8) ** 2)
    assert rates[500] == pytest.approx(0.25)
    assert rates[1000] == pytest.approx(0, abs=1e-12)
    assert all(later < earlier for earlier, later in pairwise(rates))
    linear = cosine.model_copy(update={"decay": "linear"})
    assert [learning_rate(linear, step) for step in (0, 250, 1000)] == pytest.approx([0.5, 0.375, 0])


def test_weights_decay_and_the_schedules_ends_do_not(tiny, images, world):
    trainer = Trainer(tiny("weight_decay=0.3"), images, world)
    of_net, of_schedule = trainer.optimizer.param_groups
    assert (of_net["weight_decay"], of_schedule["weight_decay"]) == (0.3, 0.0)
    ends = {id(p) for p in trainer.model.noise_schedule.parameters()}
    assert {id(p) for p in of_schedule["params"]} == ends
    assert len(of_net["params"]) + len(ends) == len(list(trainer.model.parameters()))


def test_the_gradient_is_clipped(tiny, images, world):
    trainer = Trainer(tiny("clip_norm=1e-3", "model.net.dropout=0"), images, world)
    trainer.run_step()
    squares = sum(float(p.grad.double().square().sum()) for p in trainer.parameters if p.grad is not None)
    assert math.sqrt(squares) == pytest.approx(1e-3, rel=1e-3)


def test_a_run_that_diverges_says_so(tiny, images, world):
    trainer = Trainer(tiny("learning_rate=1e30", "model.noise_schedule.learned=false"), images, world)
    with pytest.raises(NelboError, match=r"training diverged at step \d+ .*: lower learning_rate"):
        [trainer.run_step() for _ in range(5)]


def test_held_out_images_are_the_last_ones_and_not_trained_on(images):
    train, held_out = hold_out(images, 16)
    assert held_out is not None
    assert (len(train), len(held_out)) == (48, 16)
    assert bool((held_out.read(range(16)) == images.read(range(48, 64))).all())
    assert hold_out(images, 0) == (images, None)
    for n in (64, 65):
        with pytest.raises(NelboError, match=f"has 64 images and the configuration holds out {n}"):
            hold_out(images, n)


def test_images_of_another_shape_are_refused_before_anything_is_written(tiny, images, tmp_path):
    other = from_array(images.read(range(4)).repeat(1, 1, 2, 2))
    for data, test in ((other, None), (images, other)):
        with pytest.raises(NelboError, match="the images are RGB 16x16, the preset's model takes RGB 8x8"):
            Run(tiny(), data, test, tmp_path / "run", Intervals()).go("cpu")
    with pytest.raises(NelboError, match=r"heads .* must divide the channels"):
        Run(tiny("model.net.heads=[3,0]"), images, None, tmp_path / "run", Intervals()).go("cpu")
    assert not (tmp_path / "run").exists()


# The run folder: claimed once, then only for the same run

IDENTITY = {"batch_size": 16, "model": {"net": {"n_blocks": 2}}}


def test_a_folder_is_claimed_and_claimed_again(tmp_path):
    for _ in range(2):
        claim_folder(tmp_path / "a" / "run", IDENTITY)
    assert json.loads((tmp_path / "a" / "run" / "config.json").read_text()) == IDENTITY


def test_an_empty_folder_may_be_claimed_and_one_that_a_killed_process_left(tmp_path):
    (tmp_path / ".config.json.x").write_text("{")
    claim_folder(tmp_path, IDENTITY)
    assert (tmp_path / "config.json").exists()


def test_another_run_is_refused_with_the_differences(tmp_path):
    claim_folder(tmp_path, IDENTITY)
    changed = {"batch_size": 16, "model": {"net": {"n_blocks": 4}}, "seed": 1}
    with pytest.raises(NelboError, match=r"another run \(model\.net\.n_blocks: 2 -> 4; seed: null -> 1\)"):
        claim_folder(tmp_path, changed)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe\x00"])
def test_a_damaged_configuration_is_named(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(NelboError, match=r"config\.json is damaged"):
        claim_folder(tmp_path, IDENTITY)


def test_a_foreign_folder_or_file_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("years of work")
    for name in ("folder", "file"):
        with pytest.raises(NelboError, match="is no training run: choose another --out"):
            claim_folder(tmp_path / name, IDENTITY)


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    main(command(folder, "n_images=16"))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("batch_size=32", "batch_size: 16 -> 32"),
        ("model.net.dropout=0.2", "model.net.dropout: 0.1 -> 0.2"),
        ("n_images=8", "n_images: 16 -> 8"),
        ("seed=1", "begin a new run with this one's weights: --finetune"),
        ("n_held_out=8", "data.n_images: 48 -> 56"),
        ("precision=bfloat16", 'precision: "float32" -> "bfloat16"'),
    ],
)
def test_the_command_refuses_a_changed_configuration(change, message, finished, command, capsys):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as caught:
        main(command(finished, "n_images=16", change))
    assert caught.value.code == 1
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in finished.rglob("*") if path.is_file()}
    assert after == before


def test_the_command_names_a_damaged_checkpoint(finished, command, capsys):
    path = finished / "checkpoints" / "000000001" / "state.pt"
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    with pytest.raises(SystemExit) as caught:
        main(command(finished, "n_images=16"))
    assert caught.value.code == 1
    assert f"{path} is damaged" in capsys.readouterr().err
    path.write_bytes(content)


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_folder_that_another_process_claims_meanwhile_is_the_runs(tmp_path, monkeypatch, turn):
    """At any of this process's looks at it."""
    looks, exists, iterdir = [], Path.exists, Path.iterdir

    def look(path):
        looks.append(path)
        if len(looks) == turn:
            (tmp_path / "config.json").write_text(json.dumps(IDENTITY))

    def looked(path):
        look(path)
        return exists(path)

    def listed(path):
        look(path)
        return iterdir(path)

    monkeypatch.setattr(Path, "exists", looked)
    monkeypatch.setattr(Path, "iterdir", listed)
    claim_folder(tmp_path, IDENTITY)
