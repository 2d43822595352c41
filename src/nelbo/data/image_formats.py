"""Image formats: one table, each entry with all that reading, archiving and restoring need of a format.

=======================  ================================================================================
samples that lie plain    PNM, BMP, uncompressed TIFF: pixels, and the bytes before and behind them
PNG                       pixels, all other chunks, and how the pixels were filtered and deflated
JPEG                      JPEG XL's reversible transcoding
all others                the file's own bytes
=======================  ================================================================================

Another format is one more entry in ``IMAGE_FORMATS``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Shaped

from nelbo.data import jpeg, plain_samples, png

HEAD_BYTES = 64  # What a format is recognised by.

Pixels = Shaped[np.ndarray, "_ _ ..."]


@dataclass(frozen=True)
class PixelFile:
    """How a file of some format is its pixels and the rest.

    Attributes:
        read: Returns the pixels of a file, rows first, as uint8 or uint16 with one to four channels; None where they
            are not all that its samples say, so that its own bytes are kept. Raises ValueError for a damaged file.
        rest: Returns what a file holds beside its pixels, given both.
        join: Returns the file, given its pixels and the rest: the same pixels and the same metadata, always.
    """

    read: Callable[[bytes], Pixels | None]
    rest: Callable[[bytes, Pixels], bytes]
    join: Callable[[Pixels, bytes], bytes]


@dataclass(frozen=True)
class PackedFile:
    """How a file of some format is packed as bytes.

    Attributes:
        pack: Returns the packed file, None where its own bytes are kept. Raises ValueError for a damaged file.
        unpack: Returns the file, byte for byte, given the packed one and its length.
    """

    pack: Callable[[bytes], bytes | None]
    unpack: Callable[[bytes, int], bytes]


@dataclass(frozen=True)
class ImageFormat:
    """An image format.

    Attributes:
        suffixes: Its extensions, in small letters.
        begins: Returns whether a file's first ``HEAD_BYTES`` are of it.
        kept: How archives keep it, for people.
        pillow: What Pillow calls it, if data sets read it.
        files: How a file is taken apart and put together; None to keep its own bytes.
        modes: Pillow's modes that can be written in it anew without loss, where only pixels are kept.
    """

    suffixes: tuple[str, ...]
    begins: Callable[[bytes], bool]
    kept: str
    pillow: str | None = None
    files: PixelFile | PackedFile | None = None
    modes: tuple[str, ...] = ()


def _magic(*beginnings: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(beginnings)


def _brand(*brands: bytes) -> Callable[[bytes], bool]:
    """Returns whether a file is of ISO/IEC 14496-12 with one of some major brands."""
    return lambda head: head[4:8] == b"ftyp" and head[8:12] in brands


_OWN = "its own bytes"
_SAMPLES = PixelFile(plain_samples.read, plain_samples.rest, plain_samples.join)
_ALL = ("L", "RGB", "LA", "RGBA", "I;16")

IMAGE_FORMATS: dict[str, ImageFormat] = {
    "PNG": ImageFormat(
        (".png", ".apng"),
        _magic(png.SIGNATURE),
        "pixels, all chunks and how they were deflated; with palette, below 8 bits, interlaced, animated: " + _OWN,
        "PNG",
        PixelFile(png.read, png.rest, png.join),
        _ALL,
    ),
    "JPEG": ImageFormat(
        (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        _magic(b"\xff\xd8\xff"),
        "JPEG XL's reversible transcoding; where that is not possible (CMYK, arithmetic coding), " + _OWN,
        "JPEG",
        PackedFile(jpeg.pack, jpeg.unpack),
    ),
    "BMP": ImageFormat(
        (".bmp", ".dib"),
        _magic(b"BM"),
        "pixels and the bytes around them for 24 and 32 bits, else " + _OWN,
        "BMP",
        _SAMPLES,
        ("L", "RGB"),
    ),
    "TIFF": ImageFormat(
        (".tif", ".tiff"),
        _magic(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        "pixels and the bytes around them for uncompressed strips of 8 or 16 bits, else " + _OWN,
        "TIFF",
        _SAMPLES,
        _ALL,
    ),
    "PNM": ImageFormat(
        (".pgm", ".ppm", ".pnm", ".pam", ".pbm", ".pfm"),
        lambda head: head[:1] == b"P" and head[1:2] in b"1234567fF" and head[2:3].isspace(),
        "samples and the bytes around them for binary grey, colour and PAM of any maxval, else " + _OWN,
        "PPM",
        _SAMPLES,
    ),
    "GIF": ImageFormat((".gif",), _magic(b"GIF87a", b"GIF89a"), _OWN, "GIF"),
    "WEBP": ImageFormat((".webp",), lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", _OWN, "WEBP"),
    "JPEG XL": ImageFormat((".jxl",), _magic(b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"), _OWN),
    "AVIF": ImageFormat((".avif", ".avifs"), _brand(b"avif", b"avis"), _OWN),
    "HEIF": ImageFormat((".heic", ".heif"), _brand(b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim"), _OWN),
    "JPEG 2000": ImageFormat((".jp2", ".j2k", ".jpx"), _magic(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), _OWN),
    "QOI": ImageFormat((".qoi",), _magic(b"qoif"), _OWN),
    "PSD": ImageFormat((".psd",), _magic(b"8BPS"), _OWN),
    "ICO": ImageFormat((".ico",), _magic(b"\0\0\1\0"), _OWN),
}
"""The formats by their names, which archives hold: a name is never given to another format."""


def format_of(head: bytes) -> str | None:
    """Returns the name of the format that a file's first bytes are of, None if they are of no image."""
    return next((name for name, each in IMAGE_FORMATS.items() if each.begins(head)), None)


def is_picture_name(name: str) -> bool:
    """Returns whether a file's name has the extension of some image format."""
    suffix = PurePosixPath(name).suffix.lower()
    return any(suffix in each.suffixes for each in IMAGE_FORMATS.values())


def modes_written(suffix: str) -> tuple[str, ...]:
    """Returns Pillow's modes that can be written anew without loss under an extension; none for most."""
    return next((each.modes for each in IMAGE_FORMATS.values() if suffix.lower() in each.suffixes), ())
