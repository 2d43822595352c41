"""What a file is kept as: pixels and a rest, packed bytes, or its own.

What is kept is put together again here and compared before it is believed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import google_crc32c
import numpy as np
from PIL import Image

from nelbo.codec.layout import Pixels
from nelbo.codec.spool import Spool, SpoolError
from nelbo.codec.tiles import mode_of
from nelbo.codec.walk import Found, Selection
from nelbo.container.entries import MAX_PIXELS, MAX_SIDE, MODES, PIECE_BYTES, Entry, FileEntry, FileKind, Member
from nelbo.container.framing import U32
from nelbo.data.header import check_samples, open_image
from nelbo.data.image_formats import HEAD_BYTES, IMAGE_FORMATS, PackedFile, PixelFile, format_of, modes_written
from nelbo.errors import NelboError, one_line

_MAX_TAKEN = 1 << 30  # Longer files are kept as bytes, and read piece by piece.
_MAX_PACKED = 1 << 26


@dataclass(frozen=True)
class Taken:
    """A member that was found.

    Attributes:
        entry: What the archive says of it.
        shown: What messages call it.
        time: When it was last modified.
        pixels: Reads its pixels, if it has any.
        rest: Returns what its file holds beside them.
        piece: Reads a piece of it, if it is kept as bytes.
        packed: Returns it as its format packs it.
        note: What people should know of it: that it is damaged.
    """

    entry: Member
    shown: str
    time: int | None = None
    pixels: Callable[[], Pixels] | None = None
    rest: Callable[[], bytes] = bytes
    piece: Callable[[int], bytes] | None = None
    packed: Callable[[], bytes] = bytes
    note: str | None = None


@dataclass(frozen=True)
class Refusal:
    """Why a file cannot be kept, and what to do about it."""

    reason: str
    advice: str


def attempt(found: Found, selection: Selection, spool: Spool) -> Taken | Refusal:
    """Returns what a file is kept as, or why it cannot be.

    Raises:
        SpoolError: If temporary files do not fit.
    """
    try:
        return _take(found, selection, spool)
    except SpoolError:
        raise
    except OSError as error:
        return Refusal(error.strerror or one_line(error), "replace it or leave it out")
    except ValueError as error:
        if not selection.takes_all:
            return Refusal(one_line(error), "store its own bytes with --all, replace it or leave it out")
        return _own_bytes(found, note=one_line(error))


def _take(found: Found, selection: Selection, spool: Spool) -> Taken:
    """Returns what a file is kept as.

    Raises:
        ValueError: If it is damaged.
    """
    if found.kind is not FileKind.FILE:
        target = found.target()
        entry = FileEntry(found.name, len(target), found.kind)
        return Taken(entry, str(found.path), found.time, piece=lambda _: target)
    if not found.is_picture:
        return _own_bytes(found)
    name = format_of(found.read(0, HEAD_BYTES))
    if name is None:
        raise ValueError("not a readable image")
    files = IMAGE_FORMATS[name].files
    if files is None or found.n_bytes > _MAX_TAKEN:
        return _own_bytes(found)
    data = found.read()
    taken = None
    if isinstance(files, PackedFile):
        taken = _packed(found, name, files, data, spool)
    else:
        taken = _bare(found, data) if selection.is_bare else None
        taken = taken or _pixels(found, name, files, data, spool)
    return taken or _own_bytes(found)


def _packed(found: Found, name: str, files: PackedFile, data: bytes, spool: Spool) -> Taken | None:
    packed = files.pack(data) if len(data) <= _MAX_PACKED else None
    if packed is None:
        return None
    entry = FileEntry(found.name, len(data), FileKind.FILE, name)
    return Taken(entry, str(found.path), found.time, piece=lambda _: found.read(), packed=spool.keep(packed))


def _pixels(found: Found, name: str, files: PixelFile, data: bytes, spool: Spool) -> Taken | None:
    pixels = files.read(data)
    if pixels is None or max(pixels.shape[:2]) > MAX_SIDE or pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        return None
    rest = files.rest(data, pixels)
    joined = files.join(pixels, rest)
    if joined != data and not _is_same(files.read(joined), pixels):
        return None
    entry = Entry(found.name, pixels.shape[1], pixels.shape[0], mode_of(pixels), name)
    kept = spool.keep(U32.pack(google_crc32c.value(data)) + rest)

    def read() -> Pixels:
        again = files.read(found.read())
        return again if again is not None else np.zeros((0, 0), np.uint8)

    return Taken(entry, str(found.path), found.time, pixels=read, rest=kept)


def _is_same(pixels: Pixels | None, other: Pixels) -> bool:
    return pixels is not None and np.array_equal(pixels, other)


def _bare(found: Found, data: bytes) -> Taken | None:
    """Returns an image as its pixels alone, None where these are not what Pillow makes of its file."""
    try:
        with open_image(BytesIO(data)) as image:
            check_samples(image)
            if image.mode not in MODES:
                return None
            pixels = _array(image)
    except Exception:  # Pillow's decoders meet data that they do not know with nearly every exception there is.
        return None
    entry = Entry(_written_name(found.name, mode_of(pixels)), pixels.shape[1], pixels.shape[0], mode_of(pixels))

    def read() -> Pixels:
        with open_image(BytesIO(found.read())) as again:
            return _array(again)

    return Taken(entry, str(found.path), found.time, pixels=read)


def _array(image: Image.Image) -> Pixels:
    pixels = np.array(image)
    return pixels.astype(np.uint16) if image.mode == "I;16" else pixels


def _written_name(name: str, mode: str) -> str:
    return name if mode in modes_written(Path(name).suffix) else f"{name}.png"


def _own_bytes(found: Found, note: str | None = None) -> Taken:
    entry = FileEntry(found.name, found.n_bytes)
    return Taken(
        entry, str(found.path), found.time, piece=lambda k: found.read(k * PIECE_BYTES, PIECE_BYTES), note=note
    )


def of_bytes(data: bytes, spool: Spool) -> Taken:
    """Returns an image on standard input.

    Raises:
        NelboError: If it is none, or damaged.
    """
    name = format_of(data[:HEAD_BYTES])
    if name is None:
        raise NelboError("standard input is no image that nelbo knows: give one")
    found = Found.of_bytes(f"stdin{IMAGE_FORMATS[name].suffixes[0]}", data)
    try:
        return _take(found, Selection(), spool)
    except SpoolError:
        raise
    except ValueError as error:
        raise NelboError(f"standard input cannot be kept as it is ({one_line(error)}): replace it") from None
