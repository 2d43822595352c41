"""A file or folder is the old one or the new one, never something between, and nothing is left lying about."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from nelbo.errors import NelboError
from nelbo.runtime.atomic import check_writable, new_file, new_folder


def write_file(path: Path, text: str, fail: bool = False) -> None:
    with new_file(path) as temporary:
        assert temporary.parent == path.parent, "a rename works only within one file system"
        assert temporary.name.endswith(path.suffix), "encoders go by the extension"
        temporary.write_text(text)
        if fail:
            raise InterruptedError


def write_folder(path: Path, text: str, fail: bool = False) -> None:
    with new_folder(path) as temporary:
        assert temporary.parent == path.parent
        (temporary / "deep").mkdir()
        (temporary / "deep" / "inner.txt").write_text(text)
        (temporary / f"{text}.txt").touch()
        if fail:
            raise InterruptedError


def tree(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_what_is_there_is_replaced_whole(tmp_path, write):
    once, twice = tmp_path / "once", tmp_path / "twice"
    write(once / "new" / "target.txt", "b")
    write(twice / "new" / "target.txt", "a")
    write(twice / "new" / "target.txt", "b")
    assert tree(once) == tree(twice)
    assert tree(once)


@pytest.mark.parametrize("write", [write_file, write_folder])
@pytest.mark.parametrize("before", [True, False])
def test_a_failure_changes_nothing_and_leaves_nothing(tmp_path, write, before):
    if before:
        write(tmp_path / "target.txt", "old")
    state = tree(tmp_path)
    with pytest.raises(InterruptedError):
        write(tmp_path / "target.txt", "new", fail=True)
    assert tree(tmp_path) == state
    assert [path.name for path in tmp_path.iterdir()] == (["target.txt"] if before else [])


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_the_old_one_is_there_until_the_new_one_is_whole(tmp_path, write):
    write(tmp_path / "target.txt", "old")
    state = {name: text for name, text in tree(tmp_path).items() if name.startswith("target.txt")}
    with (new_file if write is write_file else new_folder)(tmp_path / "target.txt") as temporary:
        if temporary.is_dir():
            (temporary / "half").write_text("new")
        else:
            temporary.write_text("new")
        assert {name: text for name, text in tree(tmp_path).items() if name.startswith("target.txt")} == state


def test_permissions_are_those_of_any_new_file(tmp_path):
    write_file(tmp_path / "file", "text")
    write_folder(tmp_path / "folder", "text")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_a_place_that_cannot_be_written_is_named(tmp_path, write):
    (tmp_path / "file").touch()
    with pytest.raises(NelboError, match=r"cannot write .*target.txt"):
        write(tmp_path / "file" / "target.txt", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_does_not_replace_a_folder_nor_a_folder_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NelboError, match="is a folder"):
        write_file(tmp_path / "folder", "a")
    with pytest.raises(NelboError, match="is a file"):
        write_folder(tmp_path / "file", "a")
    assert tree(tmp_path) == {"file": "mine"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("take", [check_writable, lambda path: write_file(path, "a")], ids=["before", "at last"])
def test_what_is_no_regular_file_stays(tmp_path, take):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(NelboError, match="is no regular file"):
            take(tmp_path / name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(NelboError, match="is a folder"):
        take(tmp_path / "folder")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "link").is_symlink()


def test_a_place_that_cannot_be_written_is_found_without_touching_anything(tmp_path):
    check_writable(tmp_path / "deep" / "er" / "file")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NelboError, match=r"file is not a folder"):
        check_writable(tmp_path / "file" / "below")
    assert tree(tmp_path) == {"file": "mine"}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
    ],
    ids=["system", "safetensors", "torch"],
)
@pytest.mark.parametrize("new", [new_file, new_folder])
def test_a_full_disk_is_one_line_and_leaves_nothing(new, error, tmp_path):
    with pytest.raises(NelboError, match=r"cannot write .*x: the disk is full"), new(tmp_path / "x"):
        raise error
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
from pathlib import Path
from nelbo.runtime.atomic import new_file, new_folder
with new_file(Path(sys.argv[1]) / "a.nelbo"), new_folder(Path(sys.argv[1]) / "model") as folder:
    (folder / "weights").write_text("half")
    os._exit(9)
"""


@pytest.mark.skipif(os.name == "nt", reason="there, whether a process lives is not asked")
def test_what_a_killed_process_left_goes_with_the_next_run_in_that_folder(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    (tmp_path / ".mine.txt").write_text("hidden")
    with new_file(tmp_path / "living.txt") as living:
        left = [path.name for path in tmp_path.iterdir() if "nelbo-" in path.name and path != living]
        assert left == []  # And this process' own is there.
        assert living.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.txt", "living.txt"]
