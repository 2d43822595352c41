"""Bytes that are no pixels, compressed: LZMA2 where it makes them smaller."""

import lzma

from nelbo.errors import CorruptArchiveError, UnsupportedArchiveError

_STORED, _LZMA2 = b"\0", b"\1"
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 24}]
_SAMPLE_BYTES = 1 << 18


def compress(data: bytes) -> bytes:
    """Returns bytes behind one that says how they are held: 0, as they are, or 1, as a raw LZMA2 stream.

    Long data whose beginning does not shrink, such as that of a film, is not tried further.
    """
    if len(data) > _SAMPLE_BYTES:
        beginning = data[:_SAMPLE_BYTES]
        if len(_packed(beginning)) > 0.98 * len(beginning):
            return _STORED + data
    packed = _packed(data)
    return _LZMA2 + packed if len(packed) < len(data) else _STORED + data


def decompress(data: bytes, n_most: int) -> bytes:
    """Returns the bytes that were compressed, the inverse of :func:`compress`.

    Args:
        data: The compressed bytes.
        n_most: How many they may be: no more are allocated.

    Raises:
        CorruptArchiveError: If the stream is damaged, or longer than that.
        UnsupportedArchiveError: If it is held in a way that this version does not know.
    """
    method, body = data[:1], data[1:]
    if method == _LZMA2:
        try:
            decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)
            body = decoder.decompress(body, n_most + 1)
            if not decoder.eof and len(body) <= n_most:
                raise CorruptArchiveError("compressed bytes end early: the file is damaged")
        except lzma.LZMAError as error:
            raise CorruptArchiveError(f"compressed bytes are damaged ({error})") from None
    elif method != _STORED:
        raise UnsupportedArchiveError(f"bytes are compressed by method {method.hex()}: upgrade nelbo to read them")
    if len(body) > n_most:
        raise CorruptArchiveError(f"compressed bytes are more than the {n_most} that they may be: the file is damaged")
    return body


def _packed(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_RAW, filters=_FILTERS)
