"""How a command ends that cannot go on: one line, an exit status, and nothing half-written."""

import errno
import signal
import subprocess
import sys

import pytest

from nelbo.cli import main as entry
from nelbo.cli.archive_files import for_each


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_terminated_command_leaves_nothing(name, tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from nelbo.runtime.atomic import new_file
from nelbo.cli import main as entry
def work():
    with new_file(Path({str(tmp_path / "x")!r})):
        os.kill(os.getpid(), signal.{name})
        signal.pause()
entry.VERBS["info"] = work
entry.main(["info"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 128 + getattr(signal, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 bytes")])
def test_a_lack_of_memory_is_one_line(error, monkeypatch, capsys):
    def work() -> None:
        raise error

    monkeypatch.setitem(entry.VERBS, "info", work)
    with pytest.raises(SystemExit) as ended:
        entry.main(["info"])
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("nelbo: out of memory")


def test_other_errors_are_ours(monkeypatch):
    def work() -> None:
        raise RuntimeError("a defect")

    monkeypatch.setitem(entry.VERBS, "info", work)
    with pytest.raises(RuntimeError, match="a defect"):
        entry.main(["info"])


@pytest.mark.parametrize("verb", ["list", "info"])
def test_a_reader_that_leaves_is_not_spoken_to(verb, tmp_path, monkeypatch, capfd):
    def work() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setitem(entry.VERBS, "info", work if verb == "info" else lambda: for_each([tmp_path], lambda _: work()))
    monkeypatch.setattr(entry.os, "dup2", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        entry.main(["info"])
    assert ended.value.code == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("verb", ["list", "info"])
def test_a_full_device_behind_standard_output_is_explained(verb, tmp_path, monkeypatch, capsys):
    def work() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(entry.VERBS, "info", work if verb == "info" else lambda: for_each([tmp_path], lambda _: work()))
    with pytest.raises(SystemExit) as ended:
        entry.main(["info"])
    assert ended.value.code == 1
    assert "no space left for standard output" in capsys.readouterr().err
