"""Lossless JPEG XL, for seeds of chains and for images that the model does not suit.

References:
    JPEG XL, ISO/IEC 18181-1: the codestream's signature and size header (annex D).
"""

from types import ModuleType

import numpy as np
from jaxtyping import Shaped

from nelbo.errors import CorruptArchiveError, NelboError, one_line

_SIGNATURE = b"\xff\x0a"
_CONTAINER = bytes.fromhex("0000000c4a584c200d0a870a")  # The first box of a container, which 16-bit images need.
_SIZE_BITS = (9, 13, 18, 30)
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_SMALL = 1 << 16  # Pixels up to which the best setting for small images takes milliseconds.

Pixels = Shaped[np.ndarray, "_ _ ..."]


def encode(pixels: Pixels) -> bytes:
    """Returns pixels, 8- or 16-bit, of one to four channels, as a JPEG XL codestream.

    Raises:
        NelboError: If the decoder does not give the same pixels back.
    """
    jpegxl_encode = _library().jpegxl_encode
    effort = 8 if pixels.shape[0] * pixels.shape[1] <= _SMALL else 7
    data = bytes(jpegxl_encode(np.ascontiguousarray(pixels), lossless=True, effort=effort, numthreads=1))
    if not np.array_equal(decode(data, pixels.shape, pixels.dtype), pixels):
        raise NelboError("JPEG XL did not give an image back: upgrade imagecodecs")
    return data


def decode(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> Pixels:
    """Returns the pixels of a JPEG XL codestream, whose shape and type are known.

    Raises:
        CorruptArchiveError: If the bytes hold something else. The size is read before anything is allocated.
        NelboError: If there is no memory for so many pixels, or no JPEG XL.
    """
    jpegxl_decode = _library().jpegxl_decode
    if size_of(data) != shape[:2]:
        raise CorruptArchiveError("a JPEG XL image has another size than the archive says: the file is damaged")
    try:
        pixels = np.empty(shape, dtype)
        # Into memory of the right shape, and of one frame: what else a stream claims is refused, not allocated.
        jpegxl_decode(data, index=0, numthreads=1, out=pixels)
    except MemoryError:
        raise NelboError(f"there is no memory for an image of {shape[1]} x {shape[0]} pixels") from None
    except Exception as error:  # The decoder's own kinds of errors, and whatever damaged data leads to.
        raise CorruptArchiveError(f"a JPEG XL image is damaged ({one_line(error)[:80]})") from None
    return pixels


def _library() -> ModuleType:
    """Returns the library, with what it loads at its first use."""
    try:
        import imagecodecs
        from imagecodecs import jpegxl_decode, jpegxl_encode  # noqa: F401
    except ImportError as error:
        raise NelboError(f"JPEG XL cannot be loaded ({one_line(error)}): install imagecodecs again") from None
    return imagecodecs


def size_of(data: bytes) -> tuple[int, int] | None:
    """Returns height and width that a codestream's first bits state, None if it does not begin like one."""
    data = _codestream(data)
    if not data.startswith(_SIGNATURE):
        return None
    bits, at = int.from_bytes(data[2:14].ljust(12, b"\0"), "little"), 0

    def take(n: int) -> int:
        nonlocal at
        at += n
        return (bits >> (at - n)) & ((1 << n) - 1)

    def side(is_small: int) -> int:
        return 8 * (take(5) + 1) if is_small else take(_SIZE_BITS[take(2)]) + 1

    is_small = take(1)
    height, ratio = side(is_small), take(3)
    if ratio == 0:
        return height, side(is_small)
    return height, height * _RATIOS[ratio - 1][0] // _RATIOS[ratio - 1][1]


def _codestream(data: bytes) -> bytes:
    """Returns the first bytes of the codestream in a container's box ``jxlc``; without a container, the data.

    A codestream in parts, boxes ``jxlp``, is refused: a decoder would read those before a ``jxlc`` that follows.
    """
    if not data.startswith(_CONTAINER):
        return data
    at = 0
    while at + 8 <= len(data):
        n_bytes, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"jxlc":
            return data[at + 8 : at + 8 + 14] if n_bytes != 1 else data[at + 16 : at + 16 + 14]
        if n_bytes < 8 or kind == b"jxlp":
            break
        at += n_bytes
    return b""
