"""A run says how it goes: in log.txt, in metrics.jsonl, in TensorBoard, and when it stops."""

import json
import re

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nelbo.cli.main import main
from nelbo.models.folder import load
from nelbo.train.diary import Diary
from nelbo.train.loop import Trainer


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    main(command(folder))
    return folder


def log(folder):
    lines = (folder / "log.txt").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)
    return [line[21:] for line in lines]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_log_says_where_it_began_and_each_bound(run):
    lines = log(run)
    assert lines[0] == f"started: 10 steps on 48 images into {run}"
    measured = [line for line in metrics(run) if "test_bpd" in line]
    assert len(measured) == 3
    for line, values in zip(lines[1:], measured, strict=True):
        assert f"step {values['step']}: held-out bound {values['test_bpd']:.4f} ± " in line


def test_a_line_of_metrics_has_speed_gradient_and_rate(run):
    for line in metrics(run):
        if "loss_bpd" in line:
            assert line["gradient_norm"] > 0
            assert line["images_per_second"] > 0
            assert 0 < line["learning_rate"] <= 1e-3


def test_tensorboard_holds_the_numbers_and_the_sample_grids(run):
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    wanted = {"loss_bpd", "test_bpd", "test_standard_error", "gradient_norm", "learning_rate", "images_per_second"}
    assert wanted <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("samples")] == [64, 128, 160]
    bounds = [line["test_bpd"] for line in metrics(run) if "test_bpd" in line]
    assert [event.value for event in events.Scalars("test_bpd")] == pytest.approx(bounds)


def test_the_best_model_is_the_one_with_the_lowest_held_out_bound(run):
    bounds = {line["step"]: line["test_bpd"] for line in metrics(run) if "test_bpd" in line}
    lowest = min(bounds.values())
    assert f"{lowest:.4f}" in (run / "best" / "README.md").read_text()
    assert f"{bounds[10]:.4f}" in (run / "model" / "README.md").read_text()
    assert load(run / "best").image_shape == (3, 8, 8)
    assert [line for line in log(run) if "the best so far" in line][-1].startswith(
        f"step {next(step for step, bpd in bounds.items() if bpd == lowest)}:"
    )


def test_the_state_is_shown_with_step_loss_gradient_rate_and_time_left(tiny, images, world, tmp_path):
    trainer = Trainer(tiny(), images, world)
    diary = Diary(trainer, tmp_path, 0)
    losses = []
    for _ in range(3):
        losses.append(trainer.run_step())
        diary.on_step(losses[-1])
    line = diary._meter.line()
    assert line.startswith("48 of 160 images, ")
    assert " images/s, " in line
    assert " left, step 3, bpd " in line
    assert re.search(r"grad \d\S*, rate 0\.000\d+$", line)
    shown = float(line.split("bpd ")[1].split(",")[0])
    assert min(losses) <= shown <= max(losses)


def test_a_stopped_run_says_where_and_how_to_go_on(tiny, images, world, tmp_path, capsys):
    trainer = Trainer(tiny(), images, world)
    with Diary(trainer, tmp_path, 0) as diary:
        diary.on_step(trainer.run_step())
        diary.end(False)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"stopped at step 1 of 10 (16 images seen): the same command goes on from {tmp_path}"
    assert log(tmp_path)[-1] == said
