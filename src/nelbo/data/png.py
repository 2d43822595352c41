"""PNG files as pixels and all the rest: their other chunks, the filter of each row, and how they were deflated.

A file whose deflated bytes a known encoder gives again comes back byte for byte; any other comes back with the same
pixels, chunks and filters, deflated anew.

References:
    PNG (Third Edition), W3C, 2025, sections 5 (chunks), 9 (filters). https://www.w3.org/TR/png-3/
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped, UInt8

from nelbo.data import deflate
from nelbo.data.packed import packed, unpacked

Pixels = Shaped[np.ndarray, "_ _ ..."]
Rows = UInt8[np.ndarray, "h n"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_MAX_BYTES = 1 << 33


@dataclass(frozen=True)
class _File:
    """A PNG file taken apart.

    Attributes:
        width: Columns.
        height: Rows.
        depth: Bits a sample.
        colour: The colour type.
        is_interlaced: Whether its rows are Adam7's.
        is_plain: Whether its pixels are all there is: no animation, no data chunks apart from each other.
        head: The bytes before the first IDAT chunk.
        tail: The bytes after the last one.
        sizes: The lengths of the IDAT chunks.
        stream: The deflated bytes.
    """

    width: int
    height: int
    depth: int
    colour: int
    is_interlaced: bool
    is_plain: bool
    head: bytes
    tail: bytes
    sizes: list[int]
    stream: bytes


def read(data: bytes) -> Pixels | None:
    """Returns the pixels of a file, None if they are not its samples alone: palettes, few bits, interlaced, animated.

    Raises:
        ValueError: If a checksum is wrong, or rows are missing.
    """
    file = _taken_apart(data)
    inflated, is_exact = _inflated(file)
    if file.is_interlaced or not file.is_plain or file.depth < 8 or file.colour == 3 or not is_exact:
        return None
    rows = np.frombuffer(inflated, np.uint8).reshape(file.height, -1)
    n_channels = _CHANNELS[file.colour]
    step = n_channels * file.depth // 8
    samples = _unfiltered(rows[:, 0], rows[:, 1:], step)
    pixels = samples if file.depth == 8 else samples.view(">u2").astype(np.uint16)
    return pixels.reshape(file.height, file.width, *([n_channels] if n_channels > 1 else []))


def rest(data: bytes, pixels: Pixels) -> bytes:
    """Returns what a file holds beside its pixels."""
    file = _taken_apart(data)
    inflated = _inflated(file)[0]
    filters = np.frombuffer(inflated, np.uint8).reshape(file.height, -1)[:, 0].tobytes()
    recipe = deflate.recipe_of(inflated, file.stream, pixels)
    usual = max(file.sizes)
    sizes: int | list[int] = usual if file.sizes == _sizes(len(file.stream), usual) else file.sizes
    if set(filters) == {filters[0]}:
        filters = filters[:1]
    return packed([file.head, file.tail, filters, recipe, sizes])


def join(pixels: Pixels, rest: bytes) -> bytes:
    """Returns the file of some pixels.

    Raises:
        ValueError: If the rest is damaged.
    """
    head, tail, filters, recipe, sizes = unpacked(rest)
    kinds = np.frombuffer(filters, np.uint8)
    kinds = np.repeat(kinds, len(pixels)) if len(kinds) == 1 else kinds
    if len(kinds) != len(pixels) or kinds.max() > 4:
        raise ValueError("the filters of a PNG file do not fit its rows")
    samples = pixels if pixels.dtype == np.uint8 else pixels.astype(">u2")
    rows = np.ascontiguousarray(samples).reshape(len(pixels), -1).view(np.uint8)
    step = pixels.itemsize * (pixels.shape[2] if pixels.ndim == 3 else 1)
    stream = deflate.deflated(_filtered(kinds, rows, step), recipe, pixels)
    if isinstance(sizes, int) or sum(sizes) != len(stream):
        sizes = _sizes(len(stream), sizes if isinstance(sizes, int) and sizes else 1 << 16)
    chunks, at = [], 0
    for n in sizes:
        body = b"IDAT" + stream[at : at + n]
        chunks.append(struct.pack(">I", n) + body + struct.pack(">I", zlib.crc32(body)))
        at += n
    return head + b"".join(chunks) + tail


def _sizes(n_bytes: int, usual: int) -> list[int]:
    whole, last = divmod(n_bytes, usual)
    return [usual] * whole + [last] * (last > 0)


def _taken_apart(data: bytes) -> _File:
    at, header, sizes, stream, kinds = 8, b"", [], [], []
    first = last = None
    while kinds[-1:] != [b"IEND"]:
        if at + 12 > len(data):
            raise ValueError("the file ends before its end chunk")
        (n,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 12 + n
        if end > len(data):
            raise ValueError(f"the file ends within its chunk {ascii(kind)[2:-1]}")
        if struct.pack(">I", zlib.crc32(data[at + 4 : end - 4])) != data[end - 4 : end]:
            raise ValueError(f"the checksum of its chunk {ascii(kind)[2:-1]} is wrong")
        if kind == b"IHDR" and not kinds:
            header = data[at + 8 : end - 4]
        if kind == b"IDAT":
            first, last = at if first is None else first, end
            sizes.append(n)
            stream.append(data[at + 8 : end - 4])
        kinds.append(kind)
        at = end
    if len(header) != 13 or first is None or last is None:
        raise ValueError("the file has no header or no pixels")
    width, height, depth, colour, method, filtering, interlace = struct.unpack(">IIBBBBB", header)
    if not (width and height) or colour not in _DEPTHS or depth not in _DEPTHS[colour] or method or filtering:
        raise ValueError("the header is none of PNG's")
    together = kinds[kinds.index(b"IDAT") :][: len(sizes)] == [b"IDAT"] * len(sizes)
    is_plain = together and b"acTL" not in kinds and all(sizes) and interlace in (0, 1)
    sides = width, height, depth, colour, bool(interlace), is_plain
    return _File(*sides, data[:first], data[last:], sizes, b"".join(stream))


def _inflated(file: _File) -> tuple[bytes, bool]:
    """Returns the filtered rows, and whether nothing follows them.

    Raises:
        ValueError: If rows are missing, or the stream is damaged.
    """
    n_bytes = _n_bytes(file)
    if n_bytes > min(_MAX_BYTES, 1100 * len(file.stream) + 4096):  # Deflate makes 1032 bytes of one at most.
        raise ValueError("rows are missing")
    decoder = zlib.decompressobj()
    try:
        data = decoder.decompress(file.stream, n_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"its pixels are damaged ({error})") from None
    if len(data) < n_bytes:
        raise ValueError("rows are missing")
    return data, decoder.eof and len(data) == n_bytes and not decoder.unused_data


def _n_bytes(file: _File) -> int:
    """Returns how many bytes the filtered rows take."""

    def rows(height: int, width: int) -> int:
        return height * (1 + (width * _CHANNELS[file.colour] * file.depth + 7) // 8) if width > 0 else 0

    if not file.is_interlaced:
        return rows(file.height, file.width)
    passes = ((-(-(file.height - y) // dy), -(-(file.width - x) // dx)) for y, x, dy, dx in _ADAM7)
    return sum(rows(max(0, height), width) for height, width in passes)


def _unfiltered(kinds: UInt8[np.ndarray, " h"], rows: Rows, step: int) -> Rows:
    from nelbo.data.png_loops import unfilter

    if kinds.max(initial=0) > 4:
        raise ValueError(f"a row has the filter {kinds.max()}, which PNG has not")
    samples = rows.copy()
    unfilter(kinds, samples, step)
    return samples


def _filtered(kinds: UInt8[np.ndarray, " h"], samples: Rows, step: int) -> bytes:
    """Returns rows with their filters applied and named, the inverse of :func:`_unfiltered`."""
    left, above = np.zeros_like(samples), np.zeros_like(samples)
    left[:, step:], above[1:] = samples[:, :-step], samples[:-1]
    corner = np.zeros_like(samples)
    corner[:, step:] = above[:, :-step]
    rows = np.empty((len(samples), samples.shape[1] + 1), np.uint8)
    rows[:, 0] = kinds
    for kind in np.unique(kinds):
        of = kinds == kind
        rows[of, 1:] = samples[of] - _prediction(int(kind), left[of], above[of], corner[of])
    return rows.tobytes()


def _prediction(kind: int, left: Rows, above: Rows, corner: Rows) -> Rows:
    if kind == 0:
        return np.zeros_like(left)
    if kind < 3:
        return left if kind == 1 else above
    a, b, c = (each.astype(np.int16) for each in (left, above, corner))
    if kind == 3:
        return ((a + b) >> 1).astype(np.uint8)
    near_a, near_b, near_c = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    is_a, is_b = (near_a <= near_b) & (near_a <= near_c), near_b <= near_c
    return np.where(is_a, a, np.where(is_b, b, c)).astype(np.uint8)
