"""A file of a time schedule or an error table whose numbers were changed is refused in one line, whatever changed."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nelbo.diffusion.reverse import KERNELS
from nelbo.errors import NelboError
from nelbo.runtime.bundled import bundled_tables
from nelbo.time_schedule.error_table import load_table, save_table
from nelbo.time_schedule.optimise import optimal_schedules
from nelbo.time_schedule.schedule import TimeSchedule

N_FORGED = 30


def holes(tensor, rng):
    """Puts a NaN or an infinity somewhere."""
    changed = tensor.clone()
    changed.view(-1)[rng.integers(changed.numel())] = rng.choice([float("nan"), float("inf"), -float("inf")])
    return changed


TENSOR_CHANGES = {
    "holes": lambda t, rng: holes(t, rng) if t.is_floating_point() else t - 1 - t.max(),
    "longer": lambda t, rng: torch.cat([t, t[-1:]]),
    "shorter": lambda t, rng: t[:-1],
    "deeper": lambda t, rng: t[..., None],
    "empty": lambda t, rng: t[:0],
    "bytes": lambda t, rng: t.to(torch.uint8),
    "complex": lambda t, rng: t.to(torch.complex64),
}
VALUES = [None, -1, 0, 3.5, "x", [], [1], {}, True, 1 << 70, [3, 0, 4], [1e9, 2, 3], float("nan")]


def read(path):
    with safe_open(path, "pt") as file:
        return dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def forge(path, header, tensors, key, rng):
    """Writes a file with one tensor or one field of the header changed; returns what."""
    header, tensors = dict(header), dict(tensors)
    if rng.random() < 0.7:
        name = str(rng.choice([name for name in tensors if tensors[name].numel()]))
        change = str(rng.choice(list(TENSOR_CHANGES)))
        tensors[name] = TENSOR_CHANGES[change](tensors[name], rng).contiguous()
        if rng.random() < 0.1:
            change = "gone"
            del tensors[name]
    else:
        fields = json.loads(header[key])
        name, change = str(rng.choice([name for name in fields if name in CHECKED])), VALUES[rng.integers(len(VALUES))]
        while json.dumps(change) == json.dumps(fields[name]) or (change is None and name in OPTIONAL):
            change = VALUES[rng.integers(len(VALUES))]
        header[key] = json.dumps(fields | {name: change})
    save_file(tensors, path, header)
    return name, change


CHECKED = ("reverse", "exit", "image_shape", "n_steps", "timesteps", "prediction", "block")
OPTIONAL = ("timesteps", "prediction", "exit")


def assert_refused(load, path, what):
    try:
        load(path)
    except NelboError as error:
        message = str(error)
    else:
        pytest.fail(f"{what} was taken")
    assert path.name in message, what
    assert "\n" not in message, what


@pytest.fixture(scope="module")
def table():
    return load_table(bundled_tables()["mnist-tiny"])


@pytest.mark.parametrize("reverse", [name for name, kernel in KERNELS.items() if not kernel.needs_range])
def test_forged_time_schedules_are_refused(table, reverse, tmp_path):
    rng = np.random.default_rng(0)
    optimal_schedules(table, [4], reverse, ["causal"])[4].save(tmp_path / "whole")
    header, tensors = read(tmp_path / "whole")
    save_file(tensors, tmp_path / "same", header)
    assert TimeSchedule.load(tmp_path / "same").n_steps == 4
    for _ in range(N_FORGED):
        what = forge(tmp_path / "forged", header, tensors, "schedule", rng)
        assert_refused(TimeSchedule.load, tmp_path / "forged", what)


def test_forged_error_tables_are_refused(table, tmp_path):
    rng = np.random.default_rng(1)
    save_table(table, tmp_path / "whole")
    header, tensors = read(tmp_path / "whole")
    for _ in range(N_FORGED):
        what = forge(tmp_path / "forged", header, tensors, "subject", rng)
        assert_refused(load_table, tmp_path / "forged", what)


def test_unordered_gammas_and_levels_out_of_range_are_refused(table, tmp_path):
    save_table(table, tmp_path / "whole")
    header, tensors = read(tmp_path / "whole")
    changes = {
        "gammas": tensors["gammas"].flip(0),
        "exit_levels": tensors["exit_levels"] + len(table.gammas),
        "n_images": -tensors["n_images"],
        "error": -tensors["error"],
        "causal.rounding": tensors["causal.rounding"] + 2,
    }
    for name, changed in changes.items():
        save_file(tensors | {name: changed}, tmp_path / "forged", header)
        assert_refused(load_table, tmp_path / "forged", name)
