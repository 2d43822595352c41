"""Files whose samples lie plain in them, one row after the other: BMP, uncompressed TIFF, PGM, PPM and PAM.

Such a file is the bytes before its samples, the samples, and the bytes behind them: whatever those say of colours,
resolution, orientation or further pages comes back as it was, and so do samples of any meaning.

References:
    TIFF 6.0 (Adobe, 1992). Netpbm formats, https://netpbm.sourceforge.net/doc/. BITMAPINFOHEADER (Microsoft).
"""

import re
import struct
from dataclasses import astuple, dataclass

import numpy as np
from jaxtyping import Shaped

from nelbo.data.packed import packed, unpacked

Pixels = Shaped[np.ndarray, "_ _ ..."]

_MAX_SIDE = 1 << 20
_TIFF_TYPES = {1: "B", 3: "H", 4: "I"}
_GREYS = b"".join(bytes((i, i, i, 0)) for i in range(256))  # The palette of a grey BMP file.
_SHORTEST_REST = 1 << 12  # A file that is mostly other bytes than its samples is kept as bytes.


@dataclass(frozen=True)
class Layout:
    """Where samples lie and in which order.

    Attributes:
        offset: The first byte.
        height: Rows.
        width: Columns.
        n_channels: Samples a pixel, interleaved.
        n_bytes: Bytes a sample.
        is_big_endian: Whether the high byte is first.
        is_bottom_up: Whether the last row is first.
        is_reversed: Whether the first and the third sample of a pixel, red and blue, are exchanged.
        n_padding: Zero bytes behind each row.
    """

    offset: int
    height: int
    width: int
    n_channels: int
    n_bytes: int
    is_big_endian: bool = False
    is_bottom_up: bool = False
    is_reversed: bool = False
    n_padding: int = 0

    @property
    def row_bytes(self) -> int:
        """The bytes of a row, its padding included."""
        return self.width * self.n_channels * self.n_bytes + self.n_padding

    @property
    def end(self) -> int:
        """The byte after the last sample."""
        return self.offset + self.height * self.row_bytes


def read(data: bytes) -> Pixels | None:
    """Returns the samples of a file, None if they do not lie plain in it.

    Raises:
        ValueError: If it ends before its samples do.
    """
    layout = _layout_of(data)
    if layout is None:
        return None
    if layout.end > len(data):
        raise ValueError(f"the file ends {layout.end - len(data)} bytes before its samples do")
    n_rest = len(data) - layout.end + layout.offset
    if n_rest > max(_SHORTEST_REST, layout.end - layout.offset):
        return None
    pixels = _pixels(data, layout)
    return pixels if _samples(pixels, layout) == data[layout.offset : layout.end] else None


def rest(data: bytes, _pixels: Pixels) -> bytes:
    """Returns what a file holds beside its samples."""
    layout = _layout_of(data)
    assert layout is not None, "the file was read"
    order = (layout.is_big_endian, layout.is_bottom_up, layout.is_reversed, layout.n_padding)
    return packed([data[: layout.offset], data[layout.end :], *order])


def join(pixels: Pixels, rest: bytes) -> bytes:
    """Returns the file of some samples, byte for byte.

    Raises:
        ValueError: If the rest is damaged.
    """
    head, tail, is_big_endian, is_bottom_up, is_reversed, n_padding = unpacked(rest)
    height, width = pixels.shape[:2]
    n_channels = pixels.shape[2] if pixels.ndim == 3 else 1
    order = bool(is_big_endian), bool(is_bottom_up), bool(is_reversed) and n_channels > 2, int(n_padding) % 4
    return head + _samples(pixels, Layout(len(head), height, width, n_channels, pixels.itemsize, *order)) + tail


def _pixels(data: bytes, layout: Layout) -> Pixels:
    rows = np.frombuffer(data, np.uint8, layout.height * layout.row_bytes, layout.offset)
    rows = rows.reshape(layout.height, layout.row_bytes)[:, : layout.row_bytes - layout.n_padding]
    kind = np.dtype(np.uint8 if layout.n_bytes == 1 else np.uint16).newbyteorder(">" if layout.is_big_endian else "<")
    samples = np.ascontiguousarray(rows).view(kind).astype(kind.newbyteorder("="))
    pixels = samples.reshape(layout.height, layout.width, layout.n_channels)
    pixels = pixels[::-1] if layout.is_bottom_up else pixels
    pixels = pixels[..., [2, 1, 0, *range(3, layout.n_channels)]] if layout.is_reversed else pixels
    return np.ascontiguousarray(pixels[..., 0] if layout.n_channels == 1 else pixels)


def _samples(pixels: Pixels, layout: Layout) -> bytes:
    """Returns samples as they lie in a file, the inverse of :func:`_pixels`."""
    pixels = pixels.reshape(layout.height, layout.width, layout.n_channels)
    pixels = pixels[..., [2, 1, 0, *range(3, layout.n_channels)]] if layout.is_reversed else pixels
    pixels = pixels[::-1] if layout.is_bottom_up else pixels
    samples = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">" if layout.is_big_endian else "<")))
    rows = samples.reshape(layout.height, -1).view(np.uint8)
    return np.pad(rows, ((0, 0), (0, layout.n_padding))).tobytes()


def _layout_of(data: bytes) -> Layout | None:
    parsers = {b"BM": _bmp, b"II": _tiff, b"MM": _tiff, b"P5": _pnm, b"P6": _pnm, b"P7": _pam}
    try:
        layout = parsers.get(data[:2], lambda _: None)(data)
    except (struct.error, IndexError, KeyError):  # A header that leads out of the file: its bytes are kept.
        return None
    if layout is None:
        return None
    sides = layout.height, layout.width
    fits = min(sides) >= 1 and max(sides) <= _MAX_SIDE and 1 <= layout.n_channels <= 4 and layout.n_bytes in (1, 2)
    return layout if fits and 0 < layout.offset < 1 << 31 and min(astuple(layout)) >= 0 else None


def _pnm(data: bytes) -> Layout | None:
    number = rb"(?:\s+|#[^\n]*\n)+?(\d+)"
    match = re.match(rb"P[56]" + 3 * number + rb"\s", data[:4096])
    if match is None:
        return None
    width, height, largest = (int(text) for text in match.groups())
    n_channels = 1 if data[1:2] == b"5" else 3
    return Layout(match.end(), height, width, n_channels, _bytes_for(largest), is_big_endian=largest > 255)


def _pam(data: bytes) -> Layout | None:
    end = data[:4096].find(b"ENDHDR\n")
    if end < 0:
        return None
    lines = [line.split(None, 1) for line in data[:end].splitlines() if not line.startswith(b"#")]
    fields = {line[0]: line[1] for line in lines if len(line) == 2}
    width, height, depth, largest = (int(fields[name]) for name in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"))
    return Layout(end + 7, height, width, depth, _bytes_for(largest), is_big_endian=largest > 255)


def _bytes_for(largest: int) -> int:
    return 1 if largest < 256 else 2 if largest < 65536 else 0


def _bmp(data: bytes) -> Layout | None:
    offset, header, width, height, _, depth, compression = struct.unpack_from("<IIiiHHI", data, 10)
    is_grey = depth == 8 and data[14 + header : offset] == _GREYS and compression == 0
    if header < 40 or not (is_grey or (depth in (24, 32) and compression in (0, 3))):
        return None
    padding = -width * depth // 8 % 4
    return Layout(
        offset, abs(height), width, depth // 8, 1, is_bottom_up=height > 0, is_reversed=depth > 8, n_padding=padding
    )


def _tiff(data: bytes) -> Layout | None:
    """Returns the layout of a file's first image, if it is in uncompressed strips that follow one another."""
    order = "<" if data[:2] == b"II" else ">"
    if struct.unpack_from(f"{order}H", data, 2)[0] != 42:
        return None
    (place,) = struct.unpack_from(f"{order}I", data, 4)
    (n_tags,) = struct.unpack_from(f"{order}H", data, place)
    tags = dict(_tags(data, order, place + 2, n_tags))
    n_channels = tags.get(277, (1,))[0]
    bits = tags.get(258, (1,))
    if tags.get(259, (1,)) != (1,) or 322 in tags or set(bits) - {8, 16} or len(set(bits)) != 1:
        return None
    if (tags.get(284, (1,)) != (1,) and n_channels > 1) or set(tags.get(339, (1,))) - {1, 2} or tags[262][0] == 3:
        return None
    offsets, counts = tags[273], tags[279]
    layout = Layout(offsets[0], tags[257][0], tags[256][0], n_channels, bits[0] // 8, is_big_endian=order == ">")
    follows = all(a + n == b for a, n, b in zip(offsets, counts, offsets[1:], strict=False))
    return layout if follows and sum(counts) >= layout.end - layout.offset and len(offsets) == len(counts) else None


def _tags(data: bytes, order: str, place: int, n_tags: int) -> list[tuple[int, tuple[int, ...]]]:
    """Returns the numbers of a directory's tags that are whole numbers, by their tags."""
    found = []
    for at in range(place, place + 12 * n_tags, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", data, at)
        if kind not in _TIFF_TYPES or count > len(data):
            continue
        form = f"{order}{count}{_TIFF_TYPES[kind]}"
        where = at + 8 if struct.calcsize(form) <= 4 else struct.unpack_from(f"{order}I", data, at + 8)[0]
        found.append((tag, struct.unpack_from(form, data, where)))
    return found
