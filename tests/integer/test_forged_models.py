"""A frozen model is a file that people send each other: whatever stands in it, one line or the same integers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nelbo.errors import NelboError
from nelbo.integer.frozen_model import FrozenModel

from fixtures.forged_models import original, outcome, run_original, write

N_FORGED, N_SLOW = 40, 300

UNDER_BOUNDS_CHECKS = """
import sys
from pathlib import Path
from fixtures.forged_models import outcome, run_original
run_original(Path(sys.argv[1]))
print([outcome(seed, Path(sys.argv[1])) for seed in range(int(sys.argv[2]), int(sys.argv[3]))].count("refused"))
"""


def test_forged_models_are_refused_in_one_line_or_run_alike(tmp_path):
    run_original(tmp_path)
    outcomes = [outcome(seed, tmp_path) for seed in range(N_FORGED)]
    assert outcomes.count("refused") >= N_FORGED // 2


@pytest.mark.slow
def test_forged_models_read_nothing_out_of_bounds(tmp_path):
    """With bounds checks, compiled anew: the cache does not know of them."""
    environment = os.environ | {
        "NUMBA_BOUNDSCHECK": "1",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    }
    command = [sys.executable, "-c", UNDER_BOUNDS_CHECKS, str(tmp_path), str(N_FORGED), str(N_FORGED + N_SLOW)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= N_SLOW // 2


def shortened_weight(header, tensors):
    """The sum after it would read beyond its array: heap contents in the prediction."""
    for name in ("weight", "multiplier", "offset"):
        tensors[f"1.{name}"] = tensors[f"1.{name}"][:-1]


CASES = {
    "no known answers": (lambda h, t: h.update(known_gammas=[]), "holds no known answers"),
    "a shortened weight": (shortened_weight, r"operation \d+ \(\w+\): "),
    "a source that comes later": (
        lambda h, t: h["program"]["operations"][2].update(source=5),
        r"operation 2 \(\w+\) reads no earlier operation: \(5,\)",
    ),
    "an empty range": (
        lambda h, t: h["program"]["embedding"].update(low=5.0, high=5.0),
        r"the embedding: its range \[5, 5\] is empty",
    ),
    "a range without end": (lambda h, t: h["program"]["embedding"].update(low=-1e300), "program.embedding.low"),
    "a groups that do not divide": (
        lambda h, t: next(op for op in h["program"]["operations"] if op["type"] == "norm").update(groups=3),
        "do not go into 3 groups",
    ),
    "an accumulator that overflows": (
        lambda h, t: t.update({"1.multiplier": torch.full_like(t["1.multiplier"], 2**31 - 1)}),
        r"operation 1 \(conv\): it may reach .* more than 2\^53",
    ),
    "a shift below its norm's": (
        lambda h, t: next(op for op in h["program"]["operations"] if op["type"] == "norm").update(shift=0),
        r"operation \d+ \(norm\): it may leave 2\^53",
    ),
    "a short table": (lambda h, t: t.update({"table.silu": t["table.silu"][:-1]}), "the tensor 'silu' is 32768 of"),
    "a table that attention divides by": (
        lambda h, t: t.update({"table.exp": torch.zeros_like(t["table.exp"])}),
        "the table 'exp' does not begin with a positive number",
    ),
    "a gamma far away": (lambda h, t: h.update(known_gammas=[1e300]), "far outside the range"),
    "results by the terabyte": (
        lambda h, t: h["program"].update(image_shape=[3, 2**16, 2**16]),
        r"fills more than 67108864 numbers an image|is 1 x 3 x 8 x 8",
    ),
    "a field with a line of its own": (lambda h, t: h.update({"a\nb": 1}), r"is damaged: a\\nb: "),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_named(name, tmp_path):
    change, message = CASES[name]
    header, tensors = original()
    change(header, tensors)
    write(tmp_path / "forged", header, tensors)
    with pytest.raises(NelboError, match=message) as caught:
        FrozenModel.load(tmp_path / "forged")
    assert str(caught.value).startswith(str(tmp_path / "forged"))
    assert "\n" not in str(caught.value)
