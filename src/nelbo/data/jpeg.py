"""JPEG files, packed by JPEG XL's reversible transcoding.

References:
    JPEG XL, ISO/IEC 18181-2, annex A: reconstruction of JPEG files.
"""

from types import ModuleType

from nelbo.errors import NelboError


def pack(data: bytes) -> bytes | None:
    """Returns a JPEG file as JPEG XL; None if its bytes would not come back, or would not become fewer.

    Raises:
        ValueError: If the file ends before its image does.
    """
    codecs = _library()
    try:
        packed = bytes(codecs.jpegxl_encode_jpeg(data, numthreads=1))
        is_whole = len(packed) < len(data) and unpack(packed, len(data)) == data
    except NelboError:
        raise
    except Exception:  # libjxl refuses what it cannot transcode by errors of its own.
        if b"\xff\xd9" not in data[-(1 << 16) :] and b"\xff\xd9" not in data:
            raise ValueError("the file ends within its image") from None
        return None
    return packed if is_whole else None


def unpack(packed: bytes, n_bytes: int) -> bytes:
    """Returns a JPEG file, the inverse of :func:`pack`; no more than its length is allocated for it.

    Raises:
        ValueError: If the bytes are no JPEG XL of a JPEG file of that length.
    """
    codecs = _library()
    try:
        data = bytes(codecs.jpegxl_decode_jpeg(packed, numthreads=1, out=n_bytes))
    except MemoryError:
        raise
    except Exception as error:  # As above.
        raise ValueError(f"a transcoded JPEG file is damaged ({str(error)[:80]})") from None
    if len(data) != n_bytes:
        raise ValueError(f"a transcoded JPEG file has {len(data)} bytes instead of {n_bytes}")
    return data


def _library() -> ModuleType:
    try:
        import imagecodecs
        from imagecodecs import jpegxl_decode_jpeg, jpegxl_encode_jpeg  # noqa: F401
    except ImportError as error:
        raise NelboError(f"JPEG XL cannot be loaded ({str(error)[:80]}): install imagecodecs again") from None
    return imagecodecs
