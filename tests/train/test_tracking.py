"""metrics.jsonl holds whole lines of the steps that count, whatever happened before."""

import json
import math
import os

import pytest

from nelbo.train import tracking
from nelbo.train.tracking import Metrics


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    monkeypatch.setattr(tracking, "_tensorboard", lambda folder, n_images: None)


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_is_one_object(tmp_path):
    metrics = Metrics(tmp_path, 0, 16)
    metrics.write(1, {"loss_bpd": 3.5, "seconds": 0.1})
    metrics.write(2, {"test_bpd": 0.1 + 0.2})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == {"step": 1, "n_images": 16, "loss_bpd": 3.5, "seconds": 0.1}
    assert lines[1] == {"step": 2, "n_images": 32, "test_bpd": 0.1 + 0.2}  # no digit is lost


def test_the_lowest_value_is_over_all_kept_lines(tmp_path):
    metrics = Metrics(tmp_path, 0, 16)
    assert metrics.lowest("test_bpd") == math.inf
    for step, bpd in ((1, 3.0), (2, 2.0), (3, 1.0)):
        metrics.write(step, {"test_bpd": bpd})
        metrics.write(step, {"loss_bpd": 0.0})
    assert metrics.lowest("test_bpd") == 1.0
    assert Metrics(tmp_path, 2, 16).lowest("test_bpd") == 2.0


def test_lines_after_the_resumed_step_are_dropped(tmp_path):
    first = Metrics(tmp_path, 0, 16)
    for step in (10, 20, 20, 30):
        first.write(step, {"loss_bpd": 1.0})
    resumed = Metrics(tmp_path, 20, 16)
    assert steps(tmp_path) == [10, 20, 20]
    resumed.write(30, {"loss_bpd": 2.0})
    assert steps(tmp_path) == [10, 20, 20, 30]


@pytest.mark.parametrize("n_bytes", range(1, 30))
def test_a_partial_last_line_is_dropped(tmp_path, n_bytes):
    Metrics(tmp_path, 0, 16).write(1, {"loss_bpd": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 1, "n_images": 16, "loss_bpd": 1.0}'[:n_bytes])
    Metrics(tmp_path, 5, 16).write(6, {"loss_bpd": 1.0})
    assert steps(tmp_path) == [1, 6]


def test_resuming_never_shortens_the_file_in_place(tmp_path):
    """A process killed while it drops lines must not take those before them along."""
    Metrics(tmp_path, 0, 16).write(1, {"loss_bpd": 1.0})
    os.link(tmp_path / "metrics.jsonl", tmp_path / "as it was")
    before = (tmp_path / "as it was").read_bytes()
    Metrics(tmp_path, 0, 16)
    assert (tmp_path / "as it was").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["as it was", "metrics.jsonl"]
    assert steps(tmp_path) == []
