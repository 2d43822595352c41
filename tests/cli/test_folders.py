"""Folders as people have them: compressed, removed, restored, and nothing is lost or altered."""

import io
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from nelbo.cli.main import main
from nelbo.integer.frozen_files import FROZEN
from nelbo.runtime.bundled import bundled_models

from fixtures.folders import CASES, make_folder, smooth

pytestmark = pytest.mark.skipif(os.name == "nt", reason="names and links that Windows has not")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    """Returns the exit status of a command."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code or 0
    return 0


def compress(*arguments):
    return run("compress", *arguments, "--model", "mnist-tiny", "--steps", "4", "-q", "-T1")


def differences(first, second):
    """Returns what ``diff -r`` says, links and what they lead to compared as links."""
    result = subprocess.run(
        ["diff", "-r", "--no-dereference", str(first), str(second)], capture_output=True, text=True, check=False
    )
    return result.stdout + result.stderr


@pytest.mark.parametrize("n_copies", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_folder_of_everything_comes_back(place, n_copies):
    make_folder(place / "stuff", n_copies)
    shutil.copytree(place / "stuff", place / "original", symlinks=True)
    times = {path.relative_to(place / "stuff"): path.lstat().st_mtime_ns for path in (place / "stuff").rglob("*.*")}
    assert compress("stuff", "--all", "--rm") == 0
    assert not [path for path in (place / "stuff").rglob("*") if path.is_file() and not path.is_symlink()]
    shutil.rmtree(place / "stuff")
    assert run("test", "stuff.nelbo", "-q", "-T1") == 0
    assert run("-d", "stuff.nelbo", "-q", "-T1") == 0
    assert differences("original", "stuff") == ""
    for name, time in times.items():
        if not (place / "stuff" / name).is_symlink():
            assert (place / "stuff" / name).stat().st_mtime_ns == time


def test_pictures_alone_are_taken_and_the_rest_is_counted(place, capsys):
    make_folder(place / "stuff")
    assert run("compress", "stuff", "--model", "mnist-tiny", "-1", "-T1") == 0
    said = capsys.readouterr().err
    assert "4 .txt files" in said
    assert "links" in said
    assert "--all stores them" in said
    assert "bits per dimension" in said
    assert run("-d", "stuff.nelbo", "-o", "out", "-q") == 0
    assert (place / "out" / "stuff" / "day 0" / "turned.jpg").is_file()
    assert not (place / "out" / "stuff" / "notes.txt").exists()


def test_a_bad_file_is_named_and_the_others_are_archived(place, capsys):
    (place / "photos").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(place / "photos" / "good.png")
    shutil.copy(CASES / "p_rgb_short.png", place / "photos" / "bad.png")
    assert compress("photos", "--rm") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "bad.png cannot be kept as it is (rows are missing)" in said
    assert "store its own bytes with --all" in said
    assert [path.name for path in (place / "photos").iterdir()] == ["bad.png"]
    assert run("test", "photos.nelbo", "-q") == 0
    assert compress("photos", "-o", "b.nelbo", "--strict") == 1
    assert not (place / "b.nelbo").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
def test_all_is_advised_for_what_it_stores_alone(place, capsys):
    (place / "a").mkdir()
    os.mkfifo(place / "a" / "pipe")
    assert compress("a", "--all") == 1
    assert "--all" not in capsys.readouterr().err
    (place / "a" / "notes.txt").write_text("notes")
    assert run("compress", "a", "--all", "-1", "-T1", "--model", "mnist-tiny") == 0
    said = capsys.readouterr().err
    assert "1 pipes, sockets and devices, which no archive stores" in said
    assert "--all" not in said
    assert compress("a/notes.txt") == 1
    assert "--all stores any file" in capsys.readouterr().err


def test_nothing_is_removed_when_the_archive_goes_to_standard_output(place, capsys):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(place / "x.png")
    assert compress("x.png", "-c", "--rm") == 1
    assert "--rm needs an archive on the disk" in capsys.readouterr().err
    assert compress("x.png", "--rm", "--no-verify") == 1
    assert (place / "x.png").exists()


def test_members_are_chosen_by_pattern_and_written_to_standard_output(place, monkeypatch, capsys):
    make_folder(place / "stuff")
    assert compress("stuff", "--all") == 0
    assert run("decompress", "stuff.nelbo", "-o", "out", "-q", "--members", "*.gif", "--members", "stuff/odd") == 0
    found = [path for path in (place / "out").rglob("*") if path.is_file()]
    assert len(found) == 1 + len(list((place / "stuff" / "odd").iterdir()))
    assert run("decompress", "stuff.nelbo", "-o", "out", "--members", "nowhere") == 1
    assert "no member of the archive" in capsys.readouterr().err

    class Stream(io.TextIOWrapper):
        def isatty(self):
            return terminal

    for terminal, status in ((False, 0), (True, 1)):
        data = io.BytesIO()
        monkeypatch.setattr("sys.stdout", Stream(data))
        assert run("decompress", "stuff.nelbo", "-o", "-", "-q", "--members", "notes.txt") == status
        assert data.getvalue() == (b"" if terminal else (place / "stuff" / "notes.txt").read_bytes())


def test_several_archives_are_tested_listed_and_restored_in_one_call(place, capsys):
    for name in ("a", "b"):
        Image.fromarray(smooth(np.random.default_rng(0), 9, 5, 1)[..., 0].astype(np.uint8)).save(place / f"{name}.png")
        assert compress(f"{name}.png") == 0
    assert run("-t", "a.png.nelbo", "b.png.nelbo") == 0
    assert run("-dk", "a.png.nelbo", "b.png.nelbo", "-o", "out", "-q") == 0
    assert sorted(path.name for path in (place / "out").iterdir()) == ["a.png", "b.png"]
    capsys.readouterr()
    assert run("list", "a.png.nelbo", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    (member,) = listed["members"]
    assert (member["name"], member["method"], member["size"]) == ("a.png", "JPEG XL", "5 x 9 L")
    assert member["bits_per_dimension"] == 8 * member["n_bytes"] / 45
    (place / "a.png.nelbo").write_bytes(b"no")
    assert run("-t", "a.png.nelbo", "b.png.nelbo") == 1
    captured = capsys.readouterr()
    assert "b.png.nelbo: 1 image" in captured.out
    assert captured.err.count("\n") == 1


def test_files_are_listed_in_a_file_and_excluded_by_pattern(place):
    for name in ("a", "b", "c"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(place / f"{name}.png")
    (place / "list").write_text("a.png\nb.png\n")
    assert compress("--files-from", "list", "-o", "x.nelbo") == 0
    assert run("decompress", "x.nelbo", "-o", "out", "-q") == 0
    assert sorted(path.name for path in (place / "out").iterdir()) == ["a.png", "b.png"]
    assert compress(".", "-o", "y.nelbo", "--exclude", "b*", "--exclude", "out") == 0
    assert run("decompress", "y.nelbo", "-o", "more", "-q") == 0
    assert sorted(path.name for path in (place / "more").rglob("*.png")) == ["a.png", "c.png"]


def test_a_long_name_of_an_old_archive_is_shortened_and_the_others_come_back(place, capsys):
    from nelbo.codec.unpack import Unpacked
    from nelbo.container.entries import Entry

    unpacked, pixels = Unpacked(place / "out"), np.zeros((2, 2), np.uint8)
    for name in ("猫" * 84 + ".webp.png", "b.png"):
        unpacked.write(pixels, Entry(name, 2, 2, "L"))
    names = sorted(path.name for path in (place / "out").iterdir())
    assert names[0] == "b.png"
    assert names[1].startswith("猫" * 60)
    assert "~" in names[1]
    assert names[1].endswith(".png")
    assert len(unpacked.notes) == 1


def test_pixels_alone_without_times_are_version_1(place, capsys):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(place / "x.png", dpi=(72, 72))
    assert run("compress", "x.png", "--model", "mnist-tiny", "-1", "--pixels-only", "--no-times") == 0
    assert "metadata, if any, is dropped" in capsys.readouterr().err
    assert (place / "x.png.nelbo").read_bytes()[8:10] == b"\1\0"
    assert compress("x.png", "-o", "y.nelbo") == 0
    assert (place / "y.nelbo").read_bytes()[8:10] == b"\2\0"


def test_an_image_over_tiles_of_other_channels_is_one_line(place, capsys):
    for verb in (("test",), ("decompress", "-o", "out"), ("recover", "-o", "out", "-q")):
        assert run(*verb, CASES / "rgb-entry-over-grey-chain.nelbo") == 1
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_a_model_folder_serves_both_sides(place):
    folder = place / "runs" / "mine" / "model"
    shutil.copytree(bundled_models()["mnist-tiny"], folder)
    (folder / FROZEN).unlink()
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(place / "x.png")
    steps = ["--steps", "1"]
    assert run("compress", "x.png", "--model", "runs/mine", "-q", "-T1", *steps) == 0
    assert (folder / FROZEN).is_file()
    assert run("list", "x.png.nelbo") == 0
    shutil.rmtree(place / "cache", ignore_errors=True)
    assert run("decompress", "x.png.nelbo", "--model", "runs/mine", "-o", "out", "-q") == 0
