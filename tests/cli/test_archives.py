"""nelbo compress, decompress, list, test and recover, with the smallest bundled model."""

import io

import numpy as np
import pytest
from PIL import Image

from nelbo.cli.main import main
from nelbo.codec.unpack import Unpacked
from nelbo.container.entries import Entry
from nelbo.container.stream import ArchiveWriter
from nelbo.errors import NelboError


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
    assert "4 members, all whole" in capsys.readouterr().out
    assert run("decompress", "a.nelbo", "-o", "out", "-q") == 0
    for file in folder.rglob("*.*"):
        assert (tmp_path / "out" / file.relative_to(tmp_path)).read_bytes() == file.read_bytes()


def test_any_name_can_be_listed_on_any_terminal(folder, monkeypatch):
    (folder / "grey.png").rename(folder / "gr\u00e4u \u2603.png")
    assert compress(folder, "-o", "a.nelbo") == 0
    out = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, encoding="ascii"))
    assert run("list", "a.nelbo") == 0
    assert rb"photos/gr\xe4u \u2603.png" in out.getvalue()


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


def test_rm_refuses_data_sets_which_may_hold_more(tmp_path, capsys):
    np.savez(tmp_path / "set.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.arange(2))
    assert compress("set.npz", "-o", "a.nelbo", "--rm") == 1
    assert "set.npz may hold more" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["set.npz"]


def test_an_archive_may_not_replace_an_image_of_a_folder(folder, capsys):
    before = (folder / "grey.png").read_bytes()
    assert compress(folder, "-o", folder / "grey.png", "-f", "--rm") == 1
    assert "is among what is compressed" in capsys.readouterr().err
    assert (folder / "grey.png").read_bytes() == before


def test_rm_keeps_what_changed_meanwhile(folder, tmp_path, monkeypatch, capsys):
    write = ArchiveWriter.close

    def close(writer):
        (folder / "new.png").write_bytes((folder / "grey.png").read_bytes())
        (folder / "grey.png").write_bytes((folder / "deep" / "sixteen.png").read_bytes())
        write(writer)

    monkeypatch.setattr(ArchiveWriter, "close", close)
    assert compress(folder, "-o", "a.nelbo", "--rm") == 1
    assert "1 files have changed since they were found, and are kept" in capsys.readouterr().err
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["grey.png", "new.png"]
    assert run("test", "a.nelbo", "-q") == 0


def test_recover_goes_on_after_an_image_that_cannot_be_written(folder, tmp_path, capsys):
    assert compress(folder, "-o", "a.nelbo") == 0
    (tmp_path / "out" / "photos").mkdir(parents=True)
    (tmp_path / "out" / "photos" / "grey.png").write_text("mine")
    capsys.readouterr()
    assert run("recover", "a.nelbo", "-o", "out", "-q") == 1
    said = capsys.readouterr().err
    assert "1 members of a.nelbo could not be recovered, 1 of them not written (out/photos/grey.png exists" in said
    assert said.count("\n") == 1
    assert (tmp_path / "out" / "photos" / "grey.png").read_text() == "mine"
    assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == 4


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
def test_a_mode_that_no_model_has_comes_back(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "x.tif")
    assert compress("x.tif", "-o", "a.nelbo") == 0
    assert run("decompress", "a.nelbo", "-o", "out", "-q") == 0
    assert (tmp_path / "out" / "x.tif").read_bytes() == (tmp_path / "x.tif").read_bytes()


def test_a_link_in_the_output_folder_leads_nowhere(folder, tmp_path, capsys):
    assert compress(folder, "-o", "a.nelbo") == 0
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "photos").symlink_to(tmp_path / "elsewhere")
    assert run("decompress", "a.nelbo", "-o", "out", "-q") == 1
    assert "remove the link" in capsys.readouterr().err
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.fixture
def picture(tmp_path):
    """One grey image of 9 x 5 pixels, and its archive."""
    Image.fromarray(np.arange(45, dtype=np.uint8).reshape(5, 9)).save(tmp_path / "x.png")
    assert compress("x.png", "-o", "x.nelbo") == 0
    return tmp_path / "x.png"


def one_line(capsys, status=1):
    """Returns the one line that a failing command ends in."""
    error = capsys.readouterr().err
    assert error.startswith("nelbo: ")
    assert error.count("\n") == 1
    return error


def test_what_is_no_archive_is_refused_in_one_line(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for data in (b"", bytes(999), rng.bytes(5000), b"\x89NBO\n\x1a\n" + bytes(99)):
        (tmp_path / "no.nelbo").write_bytes(data)
        for verb in ("list", "test", "decompress", "recover"):
            assert run(verb, "no.nelbo", *(["-o", "out"] if verb in ("decompress", "recover") else [])) == 1
            one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_compressed_is_refused_in_one_line(tmp_path, picture, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("hello")
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:-30])
    (tmp_path / "head.png").write_bytes(picture.read_bytes()[:20])
    for name in ("empty", "text", "text/a.txt", "cut.png", "head.png", "missing.png"):
        assert compress(name, "-o", "a.nelbo") == 1
        assert name in one_line(capsys)
        assert not (tmp_path / "a.nelbo").exists()


def test_an_image_is_not_overwritten_by_its_own_archive(picture, capsys):
    before = picture.read_bytes()
    assert compress("x.png", "-o", "x.png", "-f") == 1
    assert "another name" in one_line(capsys)
    assert picture.read_bytes() == before


@pytest.mark.parametrize("lanes", [0, -1])
@pytest.mark.usefixtures("picture")
def test_no_lanes_decode_nothing(capsys, lanes):
    """They did: ``nelbo test --lanes 0`` called any archive whole."""
    assert run("test", "x.nelbo", "--lanes", lanes) == 1
    assert "1 lane or more" in one_line(capsys)


@pytest.mark.usefixtures("picture")
def test_folders_that_cannot_be_written_are_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("decompress", "x.nelbo", "-o", "file/out", "-q") == 1
    one_line(capsys)
    assert compress("x.png", "-o", "file/a.nelbo") == 1
    one_line(capsys)


def test_an_interrupt_leaves_nothing_behind(tmp_path, picture, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = sorted(tmp_path.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(ArchiveWriter, "close", interrupt)
        assert compress("x.png", "-o", "a.nelbo") == 130
        assert compress("x.png", "-o", "x.nelbo", "-f", "--rm") == 130
    with monkeypatch.context() as patch:
        patch.setattr("nelbo.codec.unpack.joined_file", interrupt)
        assert run("decompress", "x.nelbo", "-o", ".", "-f", "-q") == 130
    assert capsys.readouterr().err == "nelbo: interrupted\n" * 3
    assert sorted(tmp_path.rglob("*")) == before
    assert run("test", "x.nelbo") == 0


def test_a_link_that_leads_nowhere_is_not_replaced(tmp_path, picture, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.png").symlink_to(tmp_path / "elsewhere")
    assert run("decompress", "x.nelbo", "-o", "out", "-q") == 1
    assert "exists" in one_line(capsys)
    assert run("decompress", "x.nelbo", "-o", "out", "-q", "-f") == 0
    assert not (tmp_path / "elsewhere").exists()  # The link itself is replaced.
    assert_same(picture, tmp_path / "out" / "x.png")


def test_names_as_long_as_a_system_has_them_come_back(tmp_path, picture):
    name = 251 * "n" + ".png"
    picture.rename(tmp_path / name)
    assert compress(name, "-o", "a.nelbo") == 0
    assert run("decompress", "a.nelbo", "-o", "out", "-q") == 0
    assert (tmp_path / "out" / name).is_file()


@pytest.mark.parametrize(("first", "second"), [("A.png", "a.png"), ("\u00e9.png", "e\u0301.png"), ("ﬁ.png", "fi.png")])
def test_names_that_are_one_file_somewhere_are_renamed_there(tmp_path, first, second):
    """On a system that folds case or Unicode's forms, the second image would silently replace the first."""

    entries = [Entry(name, 2, 2, "L") for name in (first, second)]
    unpacked, pixels = Unpacked(tmp_path / "folded", force=True), np.zeros((2, 2), np.uint8)
    unpacked.write(pixels, entries[0])
    if not (tmp_path / "folded" / second).exists():  # This system folds nothing: a second name for the file does it.
        (tmp_path / "folded" / second).hardlink_to(tmp_path / "folded" / first)
    unpacked.write(pixels + 9, entries[1])
    assert second in unpacked.notes[0]
    renamed = [path for path in (tmp_path / "folded").iterdir() if "~" in path.name]
    with Image.open(renamed[0]) as image:
        assert np.array_equal(np.array(image), pixels + 9)


def test_a_member_that_its_format_cannot_hold_is_named(tmp_path):
    with pytest.raises(NelboError, match=r"'x\.bmp' has mode LA"):
        Unpacked(tmp_path).write(np.zeros((2, 2, 2), np.uint8), Entry("x.bmp", 2, 2, "LA"))
    assert not list(tmp_path.iterdir())
