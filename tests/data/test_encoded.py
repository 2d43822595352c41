"""Encoded images are decoded when they are read, and all but 8-bit images of one size are refused."""

import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from nelbo.data import open_images
from nelbo.data.folder import FolderSource
from nelbo.errors import NelboError

from fixtures.image_files import RGB, as_folder, as_parquet, cut, encoded, pa, pixels_nhwc, refusal


def test_reading_decodes_only_what_is_asked_for(tmp_path, monkeypatch):
    images = open_images(as_folder(tmp_path, pixels_nhwc(3)))
    opened, original = [], FolderSource.open
    monkeypatch.setattr(FolderSource, "open", lambda self, i: opened.append(i) or original(self, i))
    images.select([1, 4, 6]).read([2, 0])
    assert opened == [6, 1]


def test_opening_decodes_no_pixels(tmp_path, monkeypatch):
    path = as_folder(tmp_path, pixels_nhwc(3))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert len(open_images(path)) == 7


# Refusals


def png_of_16_bit_rgb():
    """Pillow writes none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(9 * 6) for _ in range(5))
    header = struct.pack(">IIBBBBB", 9, 5, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def tiff_of_16_bit_rgb():
    """Pillow writes none."""
    tags = [(256, 3, 1, 9), (257, 3, 1, 5), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 134), (277, 3, 1, 3), (278, 3, 1, 5), (279, 4, 1, 270)]
    ifd = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 14) + struct.pack("<3H", 16, 16, 16) + ifd + bytes(6 + 270)


def animation(kind):
    frames = [Image.new("RGB", (9, 5), colour) for colour in ("red", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


UNSUITABLE = {
    "alpha.png": (encoded(RGB.convert("RGBA")), "RGB with alpha"),
    "alpha.webp": (encoded(Image.new("RGBA", (9, 5), (9, 9, 9, 9)), "WEBP", lossless=True), "RGB with alpha"),
    "grey_alpha.png": (encoded(RGB.convert("LA")), "grey with alpha"),
    "palette.png": (encoded(RGB.convert("P")), "palette"),
    "palette.gif": (encoded(RGB.convert("P"), "GIF"), "palette"),
    "one_bit.png": (encoded(RGB.convert("1")), "1-bit"),
    "cmyk.jpg": (encoded(RGB.convert("CMYK"), "JPEG"), "mode CMYK"),
    "float.tif": (encoded(RGB.convert("F"), "TIFF"), "floating point"),
    "grey16.png": (encoded(Image.fromarray(np.zeros((5, 9), np.uint16))), "16-bit"),
    "rgb16.png": (png_of_16_bit_rgb(), "not 8 bits a channel"),
    "rgb16.tif": (tiff_of_16_bit_rgb(), "not 8 bits a channel"),
    "rgb16.ppm": (b"P6 9 5 65535\n" + bytes(270), "not 8 bits a channel"),
    "few_levels.pgm": (b"P5 9 5 100\n" + bytes(45), "not 8 bits a channel"),
    "plain.pgm": (b"P2 9 5 100\n" + b"0 " * 45, "not 8 bits a channel"),
    "transparent.png": (encoded(RGB, transparency=(255, 0, 0)), "a transparent colour"),
    "animated.png": (animation("PNG"), "several frames"),
    "animated.webp": (animation("WEBP"), "several frames"),
    "pages.tif": (animation("TIFF"), "several frames"),
    "text.png": (b"this is no image", "not a readable image"),
    "empty.png": (b"", "not a readable image"),
    "cut.png": (encoded(RGB)[:20], ""),
}


@pytest.mark.parametrize("name", UNSUITABLE)
def test_unsuitable_images_are_refused(tmp_path, name):
    data, reason = UNSUITABLE[name]
    path = as_folder(tmp_path, pixels_nhwc(3))
    (path / name).write_bytes(data)
    message = refusal(path)
    assert f"1 of 8 images cannot be used: {name} ({reason}" in message
    assert "modes RGB or L" in message


def test_an_unsuitable_image_alone_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(UNSUITABLE["palette.png"][0])
    assert "1 of 1 images cannot be used: a.png (palette)" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "zip", "parquet"])
def test_all_images_at_fault_are_counted_and_three_named(tmp_path, kind):
    good, odd = encoded(Image.new("L", (9, 5))), encoded(Image.new("L", (9, 6)))
    files = {f"{i}.png": good for i in range(6)} | {
        "7.png": odd,
        "8.png": encoded(RGB),
        "9.png": b"",
        "x.png": b"",
    }
    if kind == "folder":
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        path, first = tmp_path, "7.png"
    elif kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        path, first = tmp_path / "a.zip", "7.png"
    else:
        path, first = as_parquet(tmp_path, pa.array(list(files.values()))), "row 6"
    message = refusal(path)
    assert f"4 of 10 images cannot be used: {first} (grey 9x6 where most are grey 9x5), " in message
    assert "(RGB 9x5 where most are grey 9x5), " in message
    assert " and 1 more; convert all to 8-bit RGB or greyscale" in message


def test_a_body_cut_short_is_reported_by_read(tmp_path):
    path = as_folder(tmp_path, pixels_nhwc(3))
    cut(path / "part0" / "001.png", 40)
    images = open_images(path)
    images.read([0, 2])
    with pytest.raises(NelboError, match=r"part0/001\.png cannot be read: .*truncated"):
        images.read([0, 1])


def test_an_archive_member_with_a_flipped_bit_is_reported_by_read(tmp_path):
    path, bmp = tmp_path / "a.zip", encoded(RGB.resize((99, 99)), "BMP")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.bmp", bmp)
    data = path.read_bytes()
    end = data.index(bmp) + len(bmp)
    path.write_bytes(data[: end - 1] + bytes([data[end - 1] ^ 1]) + data[end:])
    images = open_images(path)
    with pytest.raises(NelboError, match=r"a\.zip: a\.bmp cannot be read: Bad CRC"):
        images.read([0])


def test_a_file_that_changed_or_vanished_is_reported_by_read(tmp_path):
    path = as_folder(tmp_path, pixels_nhwc(3))
    images = open_images(path)
    RGB.resize((4, 4)).save(path / "part0" / "000.png")
    (path / "part0" / "001.png").unlink()
    with pytest.raises(NelboError, match=r"000\.png cannot be read: its size or mode has changed"):
        images.read([0])
    with pytest.raises(NelboError, match=r"001\.png cannot be read: .*No such file"):
        images.read([1])
