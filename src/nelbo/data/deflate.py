"""Deflated bytes by the settings that made them: zlib's own, or those of Pillow.

Most programs deflate with zlib at one of a few settings, and zlib has given the same bytes for the same settings for
decades. Where the settings of a stream are found, they stand for it. Pillow may bring another library (zlib-ng), whose
bytes depend on its version; a reader that gets other bytes by it still gets the same content.
"""

import io
import zlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Shaped
from PIL import Image

Pixels = Shaped[np.ndarray, "_ _ ..."]
Recipe = list[int]
"""Which encoder, and its settings: [0] any, [1, level, strategy, memory, window] zlib, [2, level] Pillow's PNG."""

_ANY, _ZLIB, _PILLOW = 0, 1, 2
_BEGINNING = 1 << 18
_LEVELS = {0: (1, 0), 1: (5, 4, 3, 2), 2: (6,), 3: (9, 8, 7)}  # By the two bits of a stream's header.


def recipe_of(data: bytes, stream: bytes, pixels: Pixels) -> Recipe:
    """Returns settings that give a stream again, [0] if none was found.

    Args:
        data: What the stream holds.
        stream: The deflated bytes.
        pixels: The pixels whose filtered rows the data are.
    """
    return next((each for each in _candidates(stream, pixels) if _gives(each, data, stream, pixels)), [_ANY])


def deflated(data: bytes, recipe: Recipe, pixels: Pixels) -> bytes:
    """Returns data deflated by some settings, those of highest compression for [0].

    Raises:
        ValueError: If there are no such settings.
    """
    if recipe[:1] == [_PILLOW]:
        return _by_pillow(pixels, recipe[1]) or zlib.compress(data, 9)
    level, strategy, memory, window = (9, 0, 8, 15) if recipe[:1] == [_ANY] else recipe[1:]
    encoder = zlib.compressobj(level, zlib.DEFLATED, window, memory, strategy)
    return encoder.compress(data) + encoder.flush()


def _candidates(stream: bytes, pixels: Pixels) -> Iterator[Recipe]:
    level_bits, window = stream[1] >> 6, (stream[0] >> 4) + 8
    if pixels.dtype == np.uint8 or pixels.ndim == 2:
        yield from ([_PILLOW, level] for level in {2: (-1, 6), 3: (9,)}.get(level_bits, ()))
    for level in _LEVELS[level_bits]:
        for memory in (8, 9):
            for strategy in (1, 0, 3):
                yield [_ZLIB, level, strategy, memory, max(9, window)]


def _gives(recipe: Recipe, data: bytes, stream: bytes, pixels: Pixels) -> bool:
    if recipe[0] == _ZLIB and len(data) > _BEGINNING:  # Most settings are ruled out by their first bytes.
        _, level, strategy, memory, window = recipe
        encoder = zlib.compressobj(level, zlib.DEFLATED, window, memory, strategy)
        if not stream.startswith(encoder.compress(data[:_BEGINNING])):
            return False
    return deflated(data, recipe, pixels) == stream


def _by_pillow(pixels: Pixels, level: int) -> bytes | None:
    """Returns the deflated rows of the PNG file that Pillow writes of pixels, with the filters that it chooses."""
    file = io.BytesIO()
    try:
        Image.fromarray(pixels).save(file, "PNG", **({} if level < 0 else {"compress_level": level}))
    except (TypeError, ValueError, OSError):
        return None
    data, at, stream = file.getvalue(), 8, b""
    while at < len(data):
        n = int.from_bytes(data[at : at + 4], "big")
        stream += data[at + 8 : at + 8 + n] if data[at + 4 : at + 8] == b"IDAT" else b""
        at += 12 + n
    return stream
