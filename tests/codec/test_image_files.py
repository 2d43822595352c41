"""Image files on their way into an archive: kept sample by sample or refused in one line, removed only if archived."""

import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nelbo.codec.codec import Codec
from nelbo.codec.image_files import open_source
from nelbo.codec.reading import read_archive
from nelbo.codec.unpack import Unpacked
from nelbo.codec.walk import Selection
from nelbo.container.entries import Entry
from nelbo.errors import NelboError
from nelbo.integer.frozen_files import FROZEN
from nelbo.integer.frozen_model import FrozenModel
from nelbo.runtime.bundled import bundled_models

GREY = np.arange(35, dtype=np.uint8).reshape(5, 7)
MODES = {
    "L": GREY,
    "RGB": np.stack([GREY, GREY + 1, GREY + 2], -1),
    "LA": np.stack([GREY, GREY + 9], -1),
    "RGBA": np.stack([GREY, GREY + 1, GREY + 2, GREY + 9], -1),
    "I;16": GREY.astype(np.uint16) * 300,
}


def png(kind: int, bits: int, row: bytes, *others: tuple[bytes, bytes]) -> bytes:
    """Returns a PNG file of 2 x 1 pixels, of a kind and depth that Pillow does not write."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, kind, 0, 0, 0)), *others]
    chunks += [(b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def saved(pixels, kind, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


OTHERS = {
    "rgb16.png": png(2, 16, bytes(range(12))),
    "rgba16.png": png(6, 16, bytes(range(16))),
    "greyalpha16.png": png(4, 16, bytes(range(8))),
    "grey4.png": png(0, 4, b"\x12"),
    "palette.png": png(3, 8, b"\0\1", (b"PLTE", bytes(6))),
    "colourkey.png": png(2, 8, bytes(range(6)), (b"tRNS", bytes(6))),
    "greykey.png": png(0, 8, bytes(range(2)), (b"tRNS", bytes(2))),
    "text.png": png(2, 8, bytes(range(6)), (b"tEXt", b"a\0b"), (b"gAMA", bytes(4)), (b"pHYs", bytes(9))),
    "sixteen.ppm": b"P6 2 1 65535\n" + bytes(range(12)),
    "ten.pgm": b"P5 2 1 1023\n" + bytes(4),
    "five.pam": b"P7\nWIDTH 2\nHEIGHT 1\nDEPTH 4\nMAXVAL 31\nTUPLTYPE RGB_ALPHA\nENDHDR\n" + bytes(8),
    "samples.tif": saved(MODES["RGBA"], "TIFF").replace(b"\x52\x01\3\0\1\0\0\0\2", b"\x52\x01\3\0\1\0\0\0\0"),
    "lossless.webp": saved(MODES["RGB"], "WEBP", lossless=True),
    "packed.tif": saved(MODES["RGB"], "TIFF", compression="tiff_lzw"),
    "animated.gif": saved(GREY, "GIF", save_all=True, append_images=[Image.fromarray(GREY[::-1])]),
    "photo.jpg": saved(np.tile(MODES["RGB"], (9, 9, 1)), "JPEG"),
}


def restored(path, folder, name=None, **selection):
    """Returns the bytes of a file after it was archived and restored, with JPEG XL alone."""
    source, stream = open_source([path], selection=Selection(**selection)), io.BytesIO()
    Codec(None, None, FrozenModel.load(bundled_models()["mnist-tiny"] / FROZEN), jpeg_xl_alone=True).write(
        stream, source
    )
    unpacked = Unpacked(folder)
    header, members = read_archive(io.BytesIO(stream.getvalue()))
    for entry, content in members:
        unpacked.write(content, entry, None if header.times is None else header.times[0])
    unpacked.finish()
    assert not unpacked.notes
    return (folder / (name or path.name)).read_bytes()


CASES = [path for path in (Path(__file__).parents[1] / "cases").iterdir() if path.suffix in (".tif", ".bmp", ".jpg")]


@pytest.mark.parametrize("path", [*CASES, CASES[0].parent / "p_rgb_exif6.png"], ids=lambda path: path.name)
def test_cases_that_once_failed_come_back_byte_for_byte(path, tmp_path):
    assert restored(path, tmp_path) == path.read_bytes()


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_any_depth_and_kind_come_back_byte_for_byte(name, tmp_path):
    (tmp_path / name).write_bytes(OTHERS[name])
    os.utime(tmp_path / name, ns=(5, 10**18 + 7))
    assert restored(tmp_path / name, tmp_path / "out") == OTHERS[name]
    assert (tmp_path / "out" / name).stat().st_mtime_ns == 10**18 + 7


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_files_are_pixels_and_come_back_byte_for_byte(mode, kind, tmp_path):
    try:
        data = saved(MODES[mode], kind)
    except (OSError, KeyError):
        pytest.skip(f"{kind} holds no {mode}")
    path = tmp_path / "x.png"  # A file may be called anything.
    path.write_bytes(data)
    (entry,) = open_source([path]).entries
    assert isinstance(entry, Entry)
    assert restored(path, tmp_path / "out") == data


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
def test_pixels_alone_get_a_name_that_says_a_format_that_holds_the_mode(mode, suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(saved(MODES[mode], "PNG"))
    source = open_source([path], selection=Selection(is_bare=True))
    (entry,) = source.entries
    assert isinstance(entry, Entry)
    assert entry.mode == mode
    assert np.array_equal(source.pixels(0), MODES[mode])
    restored(path, tmp_path / "out", entry.name, is_bare=True)
    with Image.open(tmp_path / "out" / entry.name) as image:
        assert np.array_equal(np.array(image), MODES[mode])


def test_a_member_that_no_file_of_its_name_holds_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(NelboError, match="mode LA, which no BMP file holds"):
        Unpacked(tmp_path).check(Entry("x.bmp", 7, 5, "LA"))


WHOLE = saved(MODES["RGB"], "PNG")
BAD = {
    "rows.png": ((Path(__file__).parents[1] / "cases" / "p_rgb_short.png").read_bytes(), "rows are missing"),
    "crc.png": (WHOLE[:40] + bytes([WHOLE[40] ^ 1]) + WHOLE[41:], "checksum"),
    "cut.png": (WHOLE[:-9], "ends"),
    "head.png": (WHOLE[:20], "ends"),
    "text.png": (b"hello", "not a readable image"),
    "cut.ppm": (b"P6 2 1 255\nabc", "ends 3 bytes before"),
    "cut.bmp": (saved(MODES["RGB"], "BMP")[:-9], "ends 9 bytes before"),
    "cut.jpg": (saved(MODES["RGB"], "JPEG")[:-30], "ends within"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_its_reason_and_the_others_are_kept(name, tmp_path):
    data, reason = BAD[name]
    (tmp_path / name).write_bytes(data)
    (tmp_path / "good.png").write_bytes(WHOLE)
    source = open_source([tmp_path])
    assert [Path(entry.name).name for entry in source.entries] == ["good.png"]
    (problem,) = source.problems
    assert name in problem
    assert re.search(reason, problem)
    with pytest.raises(NelboError, match=name):
        open_source([tmp_path], selection=Selection(is_strict=True))
    stored = open_source([tmp_path], selection=Selection(takes_all=True))
    assert len(stored.entries) == 2
    assert name in stored.problems[0]


def test_what_is_left_out_is_counted_by_kind(tmp_path):
    for name in ("a.txt", "b.txt", "c", ".d.png", "good.png"):
        (tmp_path / name).write_bytes(WHOLE if name == "good.png" else b"text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link.png").symlink_to("good.png")
    source = open_source([tmp_path])
    assert len(source.entries) == 1
    assert source.left_out == {
        ".txt files": 2, "files without extension": 1, "hidden files": 1, "empty folders": 1, "links": 1
    }  # fmt: skip
    assert len(open_source([tmp_path], selection=Selection(takes_all=True)).entries) == 7
    some = open_source([tmp_path], selection=Selection(takes_all=True, exclude=["*.txt", "empty/"]))
    assert len(some.entries) == 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "JPEG", "WEBP", "PPM"])
def test_damaged_files_are_refused_or_read(kind, tmp_path):
    whole, rng, refusals = saved(MODES["RGB"], kind), np.random.default_rng(0), []
    for number in range(30):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 1 + number % 4):
            data[at] = rng.integers(256)
        path = tmp_path / f"{number}.tif"
        path.write_bytes(data[: len(data) - number % 3 * 7])
        try:
            assert restored(path, tmp_path / f"out{number}") == path.read_bytes()
        except NelboError as error:
            refusals.append(str(error))
    assert refusals
    assert not any("\n" in refusal for refusal in refusals)


def test_links_in_a_folder_are_stored_as_links_and_never_followed(tmp_path):
    for name in ("photos", "more"):
        (tmp_path / name).mkdir()
        Image.fromarray(GREY).save(tmp_path / name / "x.png")
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "more")
    (tmp_path / "more" / "back").symlink_to(tmp_path / "photos")
    source = open_source([tmp_path / "photos"])
    assert [entry.name for entry in source.entries] == ["photos/x.png"]
    assert source.left_out == {"links": 1}
    stored = open_source([tmp_path / "photos"], selection=Selection(takes_all=True))
    assert {entry.name for entry in stored.entries} == {"photos/x.png", "photos/more"}
    stored.remove_files()
    assert (tmp_path / "more" / "x.png").exists()
    assert (tmp_path / "photos" / "more").is_symlink()


def test_nothing_is_removed_through_a_link_that_was_named(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.fromarray(GREY).save(tmp_path / "photos" / "x.png")
    (tmp_path / "folder").symlink_to(tmp_path / "photos")
    (tmp_path / "y.png").symlink_to(tmp_path / "photos" / "x.png")
    source = open_source([tmp_path / "folder", tmp_path / "y.png"])
    assert len(source.entries) == 2
    source.remove_files()
    assert (tmp_path / "photos" / "x.png").exists()


def test_two_files_of_one_name_are_both_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(WHOLE)
    with pytest.raises(NelboError, match=r"a.x\.png and .*b.x\.png would both be 'x\.png'"):
        open_source([tmp_path / "a" / "x.png", tmp_path / "b" / "x.png"])


def test_only_files_that_are_as_they_were_found_are_removed(tmp_path):
    for name in ("same", "edited", "deep/same", "gone"):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(GREY).save(path)
    np.save(tmp_path / "set.npy", np.zeros((2, 5, 7), np.uint8))
    source = open_source([tmp_path / "photos", tmp_path / "set.npy", Path("cifar10-test-256")])
    Image.fromarray(GREY).save(tmp_path / "photos" / "later.png")
    Image.fromarray(GREY + 1).save(tmp_path / "photos" / "edited.png")
    (tmp_path / "photos" / "gone.png").unlink()
    assert sorted(path.name for path in source.remove_files()) == ["edited.png", "gone.png"]
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["edited.png", "later.png", "set.npy"]  # A data set may hold more than its images.
