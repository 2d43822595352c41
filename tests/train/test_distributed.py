"""Several processes train as one does: each has a part of the batch, and the same noise for it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from nelbo.cli.main import main
from nelbo.errors import NelboError
from nelbo.runtime.processes import World, join_world
from nelbo.train.checkpoint import Checkpoints
from nelbo.train.loop import Trainer

CPU = torch.device("cpu")
EXACT = "model.net.dropout=0"  # Dropout differs between processes on purpose.
ADAPTIVE = (EXACT, "model.noise_schedule.learned=false", "weighting=sigmoid", "gamma_sampling=adaptive")

# One process of two, as torchrun would start it.
ONE_OF_TWO = """
import os, sys
os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
sys.stderr = open(log, "w", buffering=1)
from nelbo.cli.main import main
main(arguments)
"""


@pytest.fixture
def start_two(tmp_path, start):
    """Starts both processes of a run; returns them and a function that reads what they said."""
    script = tmp_path / "one_of_two.py"
    script.write_text(ONE_OF_TWO)
    logs = [tmp_path / f"stderr{rank}" for rank in range(2)]

    def run(arguments):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        processes = [start(arguments, script, rank=r, port=port, log=str(logs[r])) for r in range(2)]
        return processes, lambda: [log.read_text() for log in logs]

    return run


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([line["loss_bpd"] for line in lines if "loss_bpd" in line], dtype=torch.float64)


def latest(folder):
    state = Checkpoints(folder / "checkpoints").load_latest()
    assert state is not None
    return state


def flat(weights):
    return torch.cat([weights[name].double().flatten() for name in sorted(weights)])


@pytest.mark.parametrize(
    "settings", [(EXACT,), pytest.param(ADAPTIVE, marks=pytest.mark.slow)], ids=["plain", "adaptive"]
)
def test_torchrun_with_two_processes_equals_one_process(settings, tmp_path, command, tiny, images, world):
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = command(two, *settings, log=1, checkpoint=5, evaluate=100)
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "nelbo"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    main(command(one, *settings, log=1, checkpoint=5, evaluate=100))

    assert len(losses(one)) == 10
    torch.testing.assert_close(losses(two), losses(one), rtol=1e-5, atol=0)
    first = flat(Trainer(tiny(*settings), images, world).average.model.state_dict())
    for name in ("model", "average"):
        # Adam divides by the gradient's size, so where that is all rounding, so is the weight's step: the steps of
        # all weights are compared together, and those of a process that saw half of the batch differ by their size.
        moved_by_one, moved_by_two = (flat(latest(folder)[name]) - first for folder in (one, two))
        assert (moved_by_two - moved_by_one).norm() < 1e-3 * moved_by_one.norm()
    files = {path.relative_to(one) for path in one.rglob("*") if path.is_file() and "tensorboard" not in path.parts}
    assert all((two / file).is_file() for file in files)
    assert (two / "config.json").read_bytes() == (one / "config.json").read_bytes()


def test_two_processes_learn_the_schedule_that_one_learns(tmp_path, command, start_two):
    """The interior descends the mean of squared losses over the whole batch, wherever its images are."""
    schedule = '{"type": "learned", "gamma_0": -7, "gamma_1": 5, "n_units": 8}'
    settings = (EXACT, f"model.noise_schedule={schedule}", "interior_rate=10", "n_images=80")
    one, two = tmp_path / "one", tmp_path / "two"
    processes, said = start_two(command(two, *settings, log=1, checkpoint=5, evaluate=100))
    main(command(one, *settings, log=1, checkpoint=5, evaluate=100))
    for process in processes:
        process.join(120)
        assert process.exitcode == 0, said()
    torch.testing.assert_close(losses(two), losses(one), rtol=1e-5, atol=0)
    learned = [{k: w for k, w in latest(f)["model"].items() if k.startswith("noise_schedule")} for f in (one, two)]
    assert float((learned[0]["noise_schedule.log_heights"]).abs().min()) > 1e-3  # All of them have moved from 0.
    torch.testing.assert_close(learned[1], learned[0], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_two_processes_killed_and_started_again_equal_two_left_alone(tmp_path, command, start_two):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = {"log": 3, "checkpoint": 2, "evaluate": 100}  # With dropout: each process has its own.
    for process in start_two(command(whole, **settings))[0]:
        process.join(120)
        assert process.exitcode == 0
    processes, _ = start_two(command(killed, **settings))
    while not Checkpoints(killed / "checkpoints").steps() and processes[0].is_alive():
        pass
    for process in processes:
        process.kill()
        process.join(120)
    for process in start_two(command(killed, **settings))[0]:
        process.join(120)
        assert process.exitcode == 0
    torch.testing.assert_close(losses(killed), losses(whole), rtol=0, atol=0)
    for name in ("model", "average"):
        torch.testing.assert_close(latest(killed)[name], latest(whole)[name], rtol=0, atol=0)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_of_two_stops_both_after_the_same_step(rank, tmp_path, command, start_two):
    out, settings = tmp_path / "run", {"log": 1, "checkpoint": 1000, "evaluate": 1000}
    processes, said = start_two(command(out, "n_images=16000", **settings))
    while not ((out / "metrics.jsonl").exists() and len(losses(out))) and processes[0].is_alive():
        time.sleep(0.01)
    os.kill(processes[rank].pid, signal.SIGTERM)
    for process in processes:
        process.join(120)
        assert process.exitcode == 130, said()
    (step,) = Checkpoints(out / "checkpoints").steps()
    assert 1 <= step == len(losses(out)) < 1000


@pytest.mark.parametrize("fault", ["batch", "folder"])
def test_a_mistake_ends_both_processes_with_a_line_each(fault, tmp_path, command, start_two):
    out = tmp_path / "run"
    if fault == "folder":
        out.mkdir()
        (out / "thesis.tex").touch()
    processes, said = start_two(command(out, *(["batch_size=15"] if fault == "batch" else [])))
    for process in processes:
        process.join(120)
        assert process.exitcode == 1
    expected = {"batch": "a batch of 15 does not split over 2 processes", "folder": "is no training run"}[fault]
    for text in said():
        assert text.startswith("nelbo: ")
        assert text.count("\n") == 1
        assert expected in text
    assert not (out / "config.json").exists()


@pytest.mark.parametrize("n_batch", [1, 6, 12])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_parts_are_even_and_cover_the_batch(n_batch, size):
    worlds = [World(rank, size, CPU) for rank in range(size)]
    if n_batch % size:
        for world in worlds:
            with pytest.raises(NelboError, match=f"a batch of {n_batch} does not split over {size} processes"):
                world.part(n_batch)
    else:
        assert [p for world in worlds for p in world.part(n_batch)] == list(range(n_batch))
        assert {len(world.part(n_batch)) for world in worlds} == {n_batch // size}


def test_alone_there_is_one_process_and_nothing_to_wait_for(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with join_world("cpu") as world:
        world.wait()
        assert (world.rank, world.size, world.device, world.is_first) == (0, 1, CPU, True)
        assert world.mean(torch.tensor(2.5)) == 2.5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(NelboError, match="--device cuda: this PyTorch sees no CUDA device"), join_world("cuda"):
        pass
