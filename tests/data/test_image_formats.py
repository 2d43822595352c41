"""The family of image formats: laws over the table, and a format that is registered from outside the package."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nelbo.codec.image_files import open_source
from nelbo.container.entries import Entry, FileEntry
from nelbo.data import deflate, plain_samples, png
from nelbo.data.image_formats import (
    HEAD_BYTES,
    IMAGE_FORMATS,
    ImageFormat,
    PackedFile,
    PixelFile,
    format_of,
    is_picture_name,
)
from nelbo.errors import UnsupportedArchiveError

from fixtures.folders import PICTURES, make_pictures

DOCS = Path(__file__).parents[2] / "docs" / "codec.md"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    make_pictures(root)
    return root


@pytest.mark.parametrize("name", PICTURES)
def test_a_file_is_recognised_and_put_together_again(pictures, name):
    data = (pictures / name).read_bytes()
    form = format_of(data[:HEAD_BYTES])
    assert form is not None
    assert Path(name).suffix in IMAGE_FORMATS[form].suffixes
    files = IMAGE_FORMATS[form].files
    if isinstance(files, PixelFile) and (pixels := files.read(data)) is not None:
        assert files.join(pixels, files.rest(data, pixels)) == data
    if isinstance(files, PackedFile) and (packed := files.pack(data)) is not None:
        assert files.unpack(packed, len(data)) == data
        assert len(packed) < len(data)


def test_what_is_kept_as_pixels_is_as_the_page_says(pictures):
    by_format = {}
    for name in PICTURES:
        data = (pictures / name).read_bytes()
        files = IMAGE_FORMATS[format_of(data[:HEAD_BYTES]) or ""].files
        by_format[name] = isinstance(files, PixelFile) and files.read(data) is not None
    kept = {name for name, is_pixels in by_format.items() if is_pixels}
    assert kept == {
        "rgb.png", "turned.png", "deep.png", "alpha.png", "grey.png",
        "scan.tif", "cmyk.tif", "x.bmp", "x.ppm", "ten.pgm"
    }  # fmt: skip


@pytest.mark.parametrize("name", IMAGE_FORMATS)
def test_every_format_is_in_the_table_of_the_documentation(name):
    each = IMAGE_FORMATS[name]
    suffixes = ", ".join(f"`{suffix}`" for suffix in each.suffixes)
    assert f"| {name} | {suffixes} | {each.kept} |" in DOCS.read_text()


def test_no_extension_is_of_two_formats():
    suffixes = [suffix for each in IMAGE_FORMATS.values() for suffix in each.suffixes]
    assert len(set(suffixes)) == len(suffixes)


@settings(max_examples=60)
@given(data=st.binary(max_size=200), name=st.sampled_from(sorted(IMAGE_FORMATS)))
def test_damaged_files_are_read_or_refused_by_a_value_error(data, name):
    files = IMAGE_FORMATS[name].files
    beginning = {"PNG": png.SIGNATURE, "BMP": b"BM", "TIFF": b"II*\0\x08\0\0\0", "PNM": b"P6 1 1 255 "}.get(name, b"")
    try:
        if isinstance(files, PixelFile):
            files.read(beginning + data)
        elif isinstance(files, PackedFile):
            files.pack(b"\xff\xd8\xff" + data)
    except ValueError:
        return


@settings(max_examples=30)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    filters=st.lists(st.integers(0, 4), min_size=9, max_size=9),
    colour=st.sampled_from([0, 2, 4, 6]),
    depth=st.sampled_from([8, 16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_filters_of_png_are_undone_and_done_again(height, width, filters, colour, depth, seed):
    step = {0: 1, 2: 3, 4: 2, 6: 4}[colour] * depth // 8
    samples = np.random.default_rng(seed).integers(0, 256, (height, width * step), np.uint8)
    kinds = np.array(filters[:height], np.uint8)
    filtered = png._filtered(kinds, samples, step)
    rows = np.frombuffer(filtered, np.uint8).reshape(height, -1)
    assert np.array_equal(png._unfiltered(rows[:, 0], rows[:, 1:], step), samples)


@pytest.mark.parametrize("level", [1, 4, 6, 9])
@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_RLE])
@pytest.mark.parametrize("memory", [8, 9])
def test_the_settings_of_a_stream_are_found(level, strategy, memory):
    data = np.random.default_rng(0).integers(0, 4, 50_000, np.uint8).tobytes()
    encoder = zlib.compressobj(level, zlib.DEFLATED, 15, memory, strategy)
    stream = encoder.compress(data) + encoder.flush()
    pixels = np.zeros((1, 1), np.uint8)
    recipe = deflate.recipe_of(data, stream, pixels)
    assert recipe != [0]
    assert deflate.deflated(data, recipe, pixels) == stream


def test_a_stream_of_unknown_settings_keeps_pixels_and_chunks(pictures):
    data = (pictures / "turned.png").read_bytes()
    pixels = png.read(data)
    assert pixels is not None
    head, tail, filters, _, sizes = png.unpacked(png.rest(data, pixels))
    other = png.join(pixels, png.packed([head, tail, filters, [0], sizes]))
    again = png.read(other)
    assert other != data
    assert again is not None
    assert np.array_equal(again, pixels)
    with Image.open(io.BytesIO(data)) as a, Image.open(io.BytesIO(other)) as b:
        assert dict(a.getexif()) == dict(b.getexif())
        assert a.info["dpi"] == b.info["dpi"]


def test_white_is_zero_is_kept_as_the_samples_are():
    data = (Path(__file__).parents[1] / "cases" / "t_g16le_white0.tif").read_bytes()
    pixels = plain_samples.read(data)
    assert pixels is not None
    assert plain_samples.join(pixels, plain_samples.rest(data, pixels)) == data


# A format from outside the package: its magic, one byte each for width and height, grey samples, anything.


def read(data):
    width, height = data[4:6]
    if len(data) < 6 + width * height:
        raise ValueError("samples are missing")
    return np.frombuffer(data, np.uint8, width * height, 6).reshape(height, width)


TINY = ImageFormat(
    (".tiny",),
    lambda head: head.startswith(b"TINY"),
    "pixels, and what is behind them",
    files=PixelFile(
        read,
        lambda data, pixels: data[6 + pixels.size :],
        lambda pixels, rest: b"TINY" + bytes(pixels.shape[::-1]) + pixels.tobytes() + rest,
    ),
)


def test_a_format_is_registered_from_outside(tmp_path, monkeypatch):
    from nelbo.codec.assembly import Picture
    from nelbo.codec.codec import Codec
    from nelbo.codec.reading import read_archive
    from nelbo.codec.stored_files import joined_file
    from nelbo.integer.frozen_files import FROZEN
    from nelbo.integer.frozen_model import FrozenModel
    from nelbo.runtime.bundled import bundled_models

    data = b"TINY\3\2" + bytes(range(6)) + b"made by a camera"
    (tmp_path / "x.tiny").write_bytes(data)
    (tmp_path / "cut.tiny").write_bytes(data[:9])
    with monkeypatch.context() as patch:
        patch.setitem(IMAGE_FORMATS, "TINY", TINY)
        assert is_picture_name("x.tiny")
        source, stream = open_source([tmp_path]), io.BytesIO()
        assert "samples are missing" in source.problems[0]
        (entry,) = source.entries
        assert isinstance(entry, Entry)
        assert (entry.mode, entry.format) == ("L", "TINY")
        frozen = FrozenModel.load(bundled_models()["mnist-tiny"] / FROZEN)
        Codec(None, None, frozen, jpeg_xl_alone=True).write(stream, source)
        ((_, picture),) = read_archive(io.BytesIO(stream.getvalue()))[1]
        assert isinstance(picture, Picture)
        assert joined_file(entry, picture.pixels, picture.rest or b"") == (data, True)
    with pytest.raises(UnsupportedArchiveError, match="format 'TINY'"):
        joined_file(entry, picture.pixels, picture.rest or b"")


def test_a_packed_member_of_an_unknown_format_is_refused_as_newer(tmp_path):
    from nelbo.codec.stored_files import _unpacked

    with pytest.raises(UnsupportedArchiveError, match="upgrade nelbo"):
        _unpacked(b"x", FileEntry("x.new", 1, format="NEW"))
