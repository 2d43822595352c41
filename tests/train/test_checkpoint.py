"""Checkpoints appear whole, the last few are kept, and a damaged one is named."""

import pytest
import torch

from nelbo.errors import NelboError
from nelbo.train.checkpoint import Checkpoints


def state(step):
    return {"step": step, "weights": torch.full((1000,), float(step))}


def test_the_latest_state_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.steps() == []
    assert checkpoints.load_latest() is None
    for step in (5, 100, 20):
        checkpoints.save(step, state(step))
    latest = checkpoints.load_latest()
    assert latest is not None
    assert latest["step"] == 100
    torch.testing.assert_close(latest["weights"], state(100)["weights"])


@pytest.mark.parametrize("n_kept", [1, 2, 3])
def test_the_last_few_are_kept(tmp_path, n_kept):
    checkpoints = Checkpoints(tmp_path, n_kept)
    for step in range(8, 13):  # One more digit on the way.
        checkpoints.save(step, state(step))
    assert checkpoints.steps() == list(range(13 - n_kept, 13))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{s:09d}" for s in checkpoints.steps()]


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {"step": 3, "old": True})
    checkpoints.save(3, state(3))
    latest = checkpoints.load_latest()
    assert latest is not None
    assert latest.keys() == state(3).keys()


def test_a_failed_save_leaves_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        checkpoints.save(2, {"step": 2, "unpicklable": lambda: None})
    assert [path.name for path in tmp_path.iterdir()] == ["000000001"]


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage"])
def test_a_damaged_latest_state_is_named_and_the_one_before_serves(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, state(step))
    path = tmp_path / "000000002" / "state.pt"
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "garbage": b"\x93" * 5000}[damage])
    with pytest.raises(NelboError, match=r"000000002/state\.pt is damaged .*: remove its folder"):
        checkpoints.load_latest()
    path.unlink()
    path.parent.rmdir()
    latest = checkpoints.load_latest()
    assert latest is not None
    assert latest["step"] == 1


def test_what_a_killed_process_left_half_written_goes_with_the_next_save(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    (tmp_path / ".000000002.abc").mkdir()
    (tmp_path / ".000000002.abc" / "state.pt").write_bytes(b"half")
    checkpoints.save(3, state(3))
    assert [path.name for path in tmp_path.iterdir()] == ["000000003"]
