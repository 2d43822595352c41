"""A run stopped in any way, then started again by the same command, is the run that was never stopped, bit for bit."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from nelbo.cli.main import main
from nelbo.runtime.processes import World
from nelbo.train.checkpoint import Checkpoints
from nelbo.train.loop import Intervals, Trainer, train

# Kills its own process at the n-th operation on a file of the run, counted by Python's audit events.
KILLED_AT = """
import os, signal, sys
from nelbo.cli.main import main

OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"}
seen = 0

def watch(event, details):
    global seen
    if event not in OPERATIONS or not str(details[0]).startswith(folder) or "tensorboard" in str(details[0]):
        return
    if event != "open" or details[1] not in ("r", "rb"):
        seen += 1
        if seen == n:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
main(arguments)
"""
TIMES = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    main(command(folder))
    return folder


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "killed_at.py"
    path.write_text(KILLED_AT)
    return path


def steps(folder):
    return Checkpoints(folder / "checkpoints").steps()


def wait_for_step(folder, step, process_is_alive):
    deadline = time.monotonic() + 120
    while process_is_alive() and max(steps(folder), default=0) < step:
        assert time.monotonic() < deadline, f"no checkpoint of step {step} after two minutes"
        time.sleep(0.002)


def flat(value, name=""):
    """Returns every leaf of a training state by its path, tensors as their bytes."""
    if isinstance(value, torch.Tensor):
        return {name: (value.dtype, tuple(value.shape), value.detach().contiguous().numpy().tobytes())}
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {leaf: x for key, item in items for leaf, x in flat(item, f"{name}/{key}").items()}
    return {name: value}


def assert_same_state(actual, expected):
    actual, expected = flat(actual), flat(expected)
    assert actual.keys() == expected.keys()
    assert [name for name in expected if actual[name] != expected[name] and name != "/seconds"] == []


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def visible_files(folder):
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {f for f in files if f.parts[0] != "tensorboard" and not any(p.startswith(".") for p in f.parts)}


def assert_same_run(actual, expected):
    extra = visible_files(actual) - visible_files(expected)  # The removal of an old state may have been cut short.
    assert all(file.parts[0] == "checkpoints" for file in extra)
    assert visible_files(actual) >= visible_files(expected)
    assert metrics(actual) == metrics(expected)
    for step in steps(expected):
        states = (run / "checkpoints" / f"{step:09d}" / "state.pt" for run in (actual, expected))
        assert_same_state(*(torch.load(path, weights_only=True) for path in states))
    same_bytes = [file for file in visible_files(expected) if file.suffix in (".png", ".safetensors", ".json")]
    assert len(same_bytes) >= 5
    assert all((actual / file).read_bytes() == (expected / file).read_bytes() for file in same_bytes)


def test_the_reference_has_learned_and_has_every_line(uninterrupted):
    assert [line["step"] for line in metrics(uninterrupted)] == [3, 4, 6, 8, 9, 10, 10]
    model = Checkpoints(uninterrupted / "checkpoints").load_latest()
    assert model is not None
    assert model["model"]["noise_schedule.start"] != -13.3


def test_a_fresh_interpreter_killed_by_sigkill_resumes(tmp_path, command, uninterrupted):
    out = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-m", "nelbo", *command(out)], stderr=subprocess.DEVNULL)
    wait_for_step(out, 2, lambda: process.poll() is None)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    main(command(out))
    assert_same_run(out, uninterrupted)


def test_killed_again_and_again_at_random_moments(tmp_path, command, start, uninterrupted):
    out, clock, n_kills = tmp_path / "run", random.Random(0), 0
    while max(steps(out), default=0) < 10:
        process = start(command(out))
        wait_for_step(out, max(steps(out), default=0) + 2, process.is_alive)
        time.sleep(clock.uniform(0, 0.1))
        process.kill()
        process.join()
        n_kills += process.exitcode == -signal.SIGKILL
    assert n_kills >= 2
    main(command(out))
    assert_same_run(out, uninterrupted)


def test_killed_at_chosen_file_operations(tmp_path, command, start, script, uninterrupted):
    out = tmp_path / "run"
    for n in (1, 3, 4, 6, 9, 13, 18, 24):
        process = start(command(out), script, folder=str(out), n=n)
        process.join()
        assert process.exitcode == -signal.SIGKILL, n
    main(command(out))
    assert_same_run(out, uninterrupted)


@pytest.mark.slow
def test_killed_at_any_file_operation(tmp_path, command, start, script):
    short = "n_images=48"  # Three steps, each with a checkpoint; two of them are evaluated.
    main(command(tmp_path / "whole", short, log=2, checkpoint=1, evaluate=2))
    for n in range(1, 1000):
        out = tmp_path / f"run{n}"
        process = start(command(out, short, log=2, checkpoint=1, evaluate=2), script, folder=str(out), n=n)
        process.join()
        main(command(out, short, log=2, checkpoint=1, evaluate=2))
        assert_same_run(out, tmp_path / "whole")
        if process.exitcode == 0:  # There is no n-th operation.
            assert n > 20
            return
    pytest.fail("a run without end")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_a_whole_step_with_a_checkpoint(number, tmp_path, command, start, uninterrupted):
    out = tmp_path / "run"
    process = start(command(out))
    wait_for_step(out, 2, process.is_alive)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 130
    assert 2 <= max(steps(out)) < 10
    main(command(out))
    assert_same_run(out, uninterrupted)


@pytest.mark.parametrize("stop_at", range(1, 10))
def test_stopping_after_any_step_keeps_every_line_of_metrics(stop_at, tmp_path, tiny, images, world):
    def run(folder, stop_at):
        lines = []
        trainer = Trainer(tiny(), images, world)
        stop = lambda: trainer.step == stop_at  # noqa: E731
        for _ in range(2):
            intervals = Intervals(log=4, checkpoint=100, evaluate=5)
            train(trainer, Checkpoints(folder), intervals, lambda *line: lines.append(line), lines.append, stop)
            trainer = Trainer(tiny(), images, world)
        return lines

    assert run(tmp_path / "stopped", stop_at) == run(tmp_path / "whole", None)


def test_a_finished_run_is_left_alone(command, uninterrupted, tmp_path):
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    main(command(uninterrupted))
    assert all(path.read_bytes() == content for path, content in before.items())


def test_what_killed_processes_leave_behind_confuses_nothing(tmp_path, command, uninterrupted):
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(uninterrupted / "config.json", out)
    for leftover in (".config.json.x", ".model.x/model.safetensors", "checkpoints/.000000004.x/state.pt"):
        (out / leftover).parent.mkdir(parents=True, exist_ok=True)
        (out / leftover).write_bytes(b"part of it")
    (out / "checkpoints" / "000000006").mkdir()  # A removal that was cut short.
    main(command(out))
    assert_same_run(out, uninterrupted)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("n_before", [1, 4])
def test_a_state_on_disk_is_the_whole_state(precision, n_before, tiny, images, world):
    config = tiny(f"precision={precision}", "model.net.heads=[0,2]")
    whole, first, second = (Trainer(config, images, world) for _ in range(3))
    losses = [whole.run_step() for _ in range(6)]
    resumed = [first.run_step() for _ in range(n_before)]
    stream = io.BytesIO()
    torch.save(first.state(), stream)
    stream.seek(0)
    second.load_state(torch.load(stream, weights_only=True))
    resumed += [second.run_step() for _ in range(6 - n_before)]
    assert resumed == losses
    assert_same_state(second.state(), whole.state())


def test_dropout_is_on_and_drawn_anew_by_each_step_and_process(tiny, images, world):
    config = tiny("model.net.dropout=0.5")
    first, again, second = (Trainer(config, images, world) for _ in range(3))
    for _ in range(3):  # At first, all that follows dropout is multiplied by zero.
        first.run_step()
    for trainer in (again, second):
        trainer.load_state(first.state())
    second.world = Elsewhere(1, 1, world.device)
    loss = first.run_step()
    assert again.run_step() == loss
    assert second.run_step() != loss


class Elsewhere(World):
    """The second process, which sees what the first one does, so that only its dropout differs."""

    def part(self, n_batch):
        return range(n_batch)
