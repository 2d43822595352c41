"""nelbo eval, schedule and sample in two processes: what one process finds, and one line for a mistake."""

import json
import multiprocessing
import runpy
import socket
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from nelbo.cli.main import main
from nelbo.time_schedule.error_table import ErrorTable, load_table

from fixtures.error_tables import assert_same

FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["nelbo.cli.main", "nelbo.interop.any_model", "nelbo.evaluation", "nelbo.sampling"])

# One process of two, as torchrun would start it, for one command after the other.
ONE_OF_TWO = """
import os, sys, torch
torch.set_num_threads(1)
from nelbo.cli.main import main
os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
sys.stdout = open(f"{log}.out", "w", buffering=1)
sys.stderr = open(f"{log}.err", "w", buffering=1)
for port, words in zip(ports, commands):
    os.environ["MASTER_PORT"] = str(port)
    try:
        main(words)
    except SystemExit as stop:
        print("status", stop.code)
"""

DDPM = """
import nelbo, torch

def make():
    return nelbo.from_callable(lambda x, t: 0.9 * x, torch.linspace(1e-3, 0.2, 60), (1, 4, 4), name="mine")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "mine.py").write_text(DDPM)
    np.savez(tmp_path / "images.npz", images=rng.integers(0, 256, (35, 4, 4), dtype=np.uint8))
    np.savez(tmp_path / "wide.npz", images=rng.integers(0, 256, (5, 4, 8), dtype=np.uint8))
    return tmp_path


def in_two_processes(folder, commands):
    """Returns what each process has printed, standard output and standard error."""
    script = folder / "one_of_two.py"
    script.write_text(ONE_OF_TWO)
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in commands]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    given = {"ports": ports, "commands": [command.split() for command in commands]}
    logs = [str(folder / f"log{rank}") for rank in range(2)]
    processes = [
        FRESH.Process(target=runpy.run_path, args=(str(script), given | {"rank": rank, "log": logs[rank]}))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0]
    return [[(folder / f"log{rank}.{end}").read_text() for end in ("out", "err")] for rank in range(2)]


def without_new_members(table: ErrorTable, other: ErrorTable) -> ErrorTable:
    """The table without the residual decoders that tests add to the family in this process alone."""
    kept = {
        name: {kind: value for kind, value in getattr(table, name).items() if kind in other.exits}
        for name in ("exits", "exit_losses")
    }
    assert kept["exits"]
    return replace(table, **kept)


COMMANDS = (
    "eval mine.py:make --data images.npz --json {}/pilot.json --passes 2 --batch-size 8",
    "eval mine.py:make --data images.npz --json {}/all.json --steps all",
    "schedule mine.py:make --data images.npz --out {}/schedules --gammas 11 --images 35 --budgets 2,5",
    "eval mine.py:make --data images.npz --json {}/table.json --table {}/schedules/errors.safetensors",
    "sample mine.py:make --out {}/samples --steps 7 --seeds 0-6 --batch-size 2",
    "sample mine.py:make --out {}/single --steps all --seeds 5",
    "eval mine.py:make --data wide.npz",
    "schedule mine.py:make --data images.npz --out {}/other --gammas 1",
)


def test_two_processes_find_what_one_finds(place, capsys):
    said = in_two_processes(place, [command.replace("{}", "two") for command in COMMANDS])
    for command in COMMANDS[:-2]:
        main(command.replace("{}", "one").split())
    for name in ("pilot", "all", "table"):
        one, two = (json.loads((place / n / f"{name}.json").read_text()) for n in ("one", "two"))
        for term in ("prior", "reconstruction", "diffusion"):
            assert two.pop(term) == pytest.approx(one.pop(term), rel=1e-6)
        for number in ("bpd", "standard_error"):
            assert two.pop(number) == pytest.approx(one.pop(number), rel=1e-6)
        assert two | {"provenance": {}} == one | {"provenance": {}}
        assert one["drawn"] == name
    first, second = (load_table(place / n / "schedules" / "errors.safetensors") for n in ("one", "two"))
    assert_same(without_new_members(first, second), second)
    one, two = (json.loads((place / n / "schedules" / "schedules.json").read_text()) for n in ("one", "two"))
    assert two["schedules"]["5"]["timesteps"] == one["schedules"]["5"]["timesteps"]
    for samples in ("samples", "single"):
        names = sorted(path.name for path in (place / "one" / samples).iterdir())
        assert sorted(path.name for path in (place / "two" / samples).iterdir()) == names
        for name in names:
            pixels = [np.asarray(Image.open(place / n / samples / name)).astype(int) for n in ("one", "two")]
            assert np.abs(pixels[0] - pixels[1]).max() <= 1
    (out, err), (other_out, other_err) = said
    assert out.count("status 1") == 2
    assert other_out.split() == ["status", "0"] * 2
    assert other_err == ""
    lines = err.splitlines()
    assert len(lines) == 2
    assert "wide.npz: images have shape" in lines[0]
    assert "at least 2 gammas" in lines[1]
    assert not (place / "two" / "other").exists()
