"""nelbo compress, decompress, list, test and recover, with the smallest bundled model."""

import io

import numpy as np
import pytest
from PIL import Image

from nelbo.cli.main import main


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path):
    """A folder of images of several kinds and modes."""
    rng, root = np.random.default_rng(0), tmp_path / "photos"
    (root / "deep").mkdir(parents=True)
    grey = rng.integers(0, 256, (20, 13), np.uint8)
    Image.fromarray(grey).save(root / "grey.png")
    Image.fromarray(grey).convert("RGBA").save(root / "rgba.tif")
    Image.fromarray(grey.astype(np.uint16) * 200).save(root / "deep" / "sixteen.png")
    Image.fromarray(grey).convert("RGB").save(root / "lossy.jpg")
    return root


def run(*arguments):
    """Returns the exit status of a command."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code or 0
    return 0


def compress(*arguments):
    return run("compress", *arguments, "--model", "mnist-tiny", "--steps", "4", "-q")


def assert_same(first, second):
    with Image.open(first) as a, Image.open(second) as b:
        assert a.mode == b.mode
        assert np.array_equal(np.array(a), np.array(b))


def test_a_folder_comes_back(folder, tmp_path, capsys):
    assert compress(folder, "-o", "a.nelbo") == 0
    assert run("list", "a.nelbo") == 0
    assert "photos/deep/sixteen.png" in capsys.readouterr().out
    assert run("test", "a.nelbo") == 0
    assert "4 images, all whole" in capsys.readouterr().out
    assert run("decompress", "a.nelbo", "-o", "out", "-q") == 0
    for file in folder.rglob("*.*"):
        name = file.relative_to(tmp_path).as_posix()
        assert_same(file, tmp_path / "out" / (f"{name}.png" if name.endswith("jpg") else name))


def test_nothing_is_overwritten_without_force(folder, capsys):
    assert compress(folder, "-o", "a.nelbo") == 0
    assert compress(folder, "-o", "a.nelbo") == 1
    assert "overwrite it with -f" in capsys.readouterr().err
    assert compress(folder, "-o", "a.nelbo", "-f") == 0
    assert run("decompress", "a.nelbo", "-o", "out", "-q") == 0
    assert run("decompress", "a.nelbo", "-o", "out", "-q") == 1
    assert run("decompress", "a.nelbo", "-o", "out", "-q", "-f") == 0


def test_a_cut_archive_fails_in_one_line(folder, tmp_path, capsys):
    assert compress(folder, "-o", "a.nelbo") == 0
    capsys.readouterr()
    data = (tmp_path / "a.nelbo").read_bytes()
    for n in (0, 10, 200, len(data) - 1):
        (tmp_path / "cut.nelbo").write_bytes(data[:n])
        assert run("test", "cut.nelbo") == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_recover_saves_what_is_whole(folder, tmp_path, capsys):
    files = sorted(folder.glob("*.*"))
    assert compress(*files, "-o", "a.nelbo", "--chain", "1") == 0
    data = bytearray((tmp_path / "a.nelbo").read_bytes())
    data[-200] ^= 1  # In the last chain.
    (tmp_path / "bad.nelbo").write_bytes(data)
    assert run("recover", "bad.nelbo", "-o", "out", "-q") == 1
    assert "could not be recovered" in capsys.readouterr().err
    assert_same(files[0], tmp_path / "out" / files[0].name)


def test_rm_removes_what_was_compressed(folder, tmp_path):
    assert compress(folder, "-o", "a.nelbo", "--rm") == 0
    assert not [path for path in folder.rglob("*") if path.is_file()]
    assert run("decompress", "a.nelbo", "-o", tmp_path / "out", "-q") == 0


def test_standard_streams(folder, tmp_path, monkeypatch, capfdbinary):
    class Stream:
        def __init__(self, data=b""):
            self.buffer = io.BytesIO(data)

        def isatty(self):
            return False

        def write(self, text):
            return len(text)

        def flush(self):
            pass

    out = Stream()
    monkeypatch.setattr("sys.stdin", Stream((folder / "grey.png").read_bytes()))
    monkeypatch.setattr("sys.stdout", out)
    assert compress("-", "-o", "-") == 0
    monkeypatch.setattr("sys.stdin", Stream(out.buffer.getvalue()))
    assert run("decompress", "-", "-o", "out", "-q") == 0
    assert_same(folder / "grey.png", tmp_path / "out" / "stdin.png")


def test_a_data_set_comes_back_as_files(tmp_path):
    images = np.tile(np.arange(28, dtype=np.uint8)[None, :, None], (3, 1, 28))
    np.savez(tmp_path / "digits.npz", images=images)
    assert compress("digits.npz", "-o", "a.nelbo") == 0
    assert run("decompress", "a.nelbo", "-o", "out", "-q") == 0
    with Image.open(tmp_path / "out" / "digits" / "00002.png") as image:
        assert np.array_equal(np.array(image), images[2])


@pytest.mark.parametrize("mode", ["P", "1", "CMYK"])
def test_a_mode_that_would_change_is_refused(tmp_path, capsys, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "x.tif")
    assert compress("x.tif", "-o", "a.nelbo") == 1
    assert f"mode {mode}" in capsys.readouterr().err
    assert not (tmp_path / "a.nelbo").exists()


def test_a_link_in_the_output_folder_leads_nowhere(folder, tmp_path, capsys):
    assert compress(folder, "-o", "a.nelbo") == 0
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "photos").symlink_to(tmp_path / "elsewhere")
    assert run("decompress", "a.nelbo", "-o", "out", "-q") == 1
    assert "remove the link" in capsys.readouterr().err
    assert not list((tmp_path / "elsewhere").iterdir())
