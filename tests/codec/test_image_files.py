"""Image files on their way into an archive: kept sample by sample or refused in one line, removed only if archived."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nelbo.codec.image_files import Unpacked, open_source
from nelbo.container.entries import Entry
from nelbo.errors import NelboError

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


ALTERED = {
    "rgb16.png": (png(2, 16, bytes(range(12))), "not 8 bits"),
    "rgba16.png": (png(6, 16, bytes(range(16))), "not 8 bits"),
    "greyalpha16.png": (png(4, 16, bytes(range(8))), "not 8 bits"),
    "grey4.png": (png(0, 4, b"\x12"), "not 8 bits"),
    "colourkey.png": (png(2, 8, bytes(range(6)), (b"tRNS", bytes(6))), "a transparent colour"),
    "greykey.png": (png(0, 8, bytes(range(2)), (b"tRNS", bytes(2))), "a transparent colour"),
    "sixteen.ppm": (b"P6 2 1 65535\n" + bytes(range(12)), "not 8 bits"),
    "vector.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "cannot|not|no"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_what_pillow_would_alter_is_refused_in_one_line(name, tmp_path):
    data, problem = ALTERED[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(NelboError, match=problem) as caught:
        open_source([tmp_path / name])
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
def test_names_say_a_format_that_holds_the_mode(mode, suffix, tmp_path):
    """A PNG file may be called anything; what comes back is what went in."""
    path = tmp_path / f"x{suffix}"
    path.write_bytes(saved(MODES[mode], "PNG"))
    source = open_source([path])
    (entry,) = source.entries
    assert entry.mode == mode
    assert np.array_equal(source.pixels(0), MODES[mode])
    unpacked = Unpacked(tmp_path / "out")
    unpacked.check(entry)
    unpacked.write(source.pixels(0), entry)
    (back,) = open_source([tmp_path / "out" / entry.name]).entries
    assert back.mode == mode
    with Image.open(tmp_path / "out" / entry.name) as image:
        assert np.array_equal(np.array(image), MODES[mode])


def test_a_member_that_no_file_of_its_name_holds_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(NelboError, match="mode LA, which no BMP file holds"):
        Unpacked(tmp_path).check(Entry("x.bmp", 7, 5, "LA"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "JPEG", "WEBP", "PPM"])
def test_damaged_files_are_refused_or_read(kind, tmp_path):
    whole, rng, refusals = saved(MODES["RGB"], kind), np.random.default_rng(0), []
    for number in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 1 + number % 4):
            data[at] = rng.integers(256)
        path = tmp_path / f"{number}.tif"
        path.write_bytes(data[: len(data) - number % 3 * 7])
        try:
            open_source([path]).pixels(0)
        except NelboError as error:
            refusals.append(str(error))
    assert refusals
    assert not any("\n" in refusal for refusal in refusals)


@pytest.mark.parametrize("meaning", [0, 1], ids=["unspecified", "multiplied by alpha"])
def test_samples_of_tiff_files_that_pillow_alters_are_refused(meaning, tmp_path):
    extra_samples = struct.pack("<HHI", 338, 3, 1)
    data = saved(MODES["RGBA"], "TIFF")
    assert extra_samples + b"\2" in data
    (tmp_path / "x.tif").write_bytes(data.replace(extra_samples + b"\2", extra_samples + bytes([meaning])))
    with pytest.raises(NelboError, match=r"x\.tif cannot be kept as it is.*samples"):
        open_source([tmp_path / "x.tif"])


def test_linked_folders_are_followed_but_never_in_circles(tmp_path):
    for name in ("photos", "more"):
        (tmp_path / name).mkdir()
        Image.fromarray(GREY).save(tmp_path / name / "x.png")
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "more")
    (tmp_path / "more" / "back").symlink_to(tmp_path / "photos")
    names = [entry.name for entry in open_source([tmp_path / "photos"]).entries]
    assert names == ["photos/more/x.png", "photos/x.png"]


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
