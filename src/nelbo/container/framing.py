"""Bytes on streams: checksums, lists of parts, and reading that a false length cannot fool."""

import itertools
import struct
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import google_crc32c

from nelbo.errors import CorruptArchiveError

U32 = struct.Struct("<I")
_PIECE_BYTES = 1 << 20


@runtime_checkable
class Readable(Protocol):
    """A stream of bytes that is read forwards, such as standard input or a socket."""

    def read(self, n_bytes: int, /) -> bytes:
        """Returns at most so many bytes, none at the end."""
        ...


@runtime_checkable
class Writable(Protocol):
    """A stream of bytes that is written forwards, such as standard output."""

    def write(self, data: bytes, /) -> object:
        """Writes all of the bytes."""
        ...


@runtime_checkable
class Seekable(Readable, Protocol):
    """A stream of bytes that is read at any place, such as a file."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Moves to a place and returns it."""
        ...

    def tell(self) -> int:
        """Returns the place."""
        ...


def join_parts(parts: Sequence[bytes]) -> bytes:
    """Returns byte strings as one: their number, their lengths, themselves."""
    lengths = b"".join(U32.pack(len(part)) for part in parts)
    return U32.pack(len(parts)) + lengths + b"".join(parts)


def split_parts(data: bytes, n_parts: int) -> list[bytes]:
    """Returns the byte strings that were joined, the inverse of :func:`join_parts`.

    Args:
        data: The joined byte strings.
        n_parts: How many there must be: a part of four bytes in a file would be some hundred as an object.

    Raises:
        CorruptArchiveError: If there is another number of them, or the lengths do not add up to what is there.
    """
    if data[: U32.size] != U32.pack(n_parts):
        raise CorruptArchiveError("a list of parts holds another number than it should: the file is damaged")
    if U32.size * (n_parts + 1) > len(data):
        raise CorruptArchiveError("a list of parts is longer than what holds it: the file is damaged")
    lengths = struct.unpack_from(f"<{n_parts}I", data, U32.size)
    ends = list(itertools.accumulate(lengths, initial=U32.size * (n_parts + 1)))
    if ends[-1] != len(data):
        raise CorruptArchiveError("the lengths of a list of parts do not add up: the file is damaged")
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def checked(data: bytes) -> bytes:
    """Returns bytes with their CRC32C behind them."""
    return data + U32.pack(google_crc32c.value(data))


def unchecked(data: bytes, what: str) -> bytes:
    """Returns bytes without the CRC32C behind them, the inverse of :func:`checked`.

    Raises:
        CorruptArchiveError: If it does not fit, or there are too few bytes for it.
    """
    body, crc = data[: -U32.size], data[-U32.size :]
    if len(data) < U32.size or U32.pack(google_crc32c.value(body)) != crc:
        raise CorruptArchiveError(f"{what} of the archive cannot be trusted: the file is damaged")
    return body


def read_exactly(stream: Readable, n_bytes: int) -> bytes:
    """Reads so many bytes, in pieces, so that a false length takes no more memory than the stream has bytes.

    Raises:
        CorruptArchiveError: If the stream ends before.
    """
    data = read_up_to(stream, n_bytes)
    if len(data) < n_bytes:
        missing = n_bytes - len(data)
        raise CorruptArchiveError(f"the archive ends {missing} bytes too early: it was cut off, fetch it again")
    return data


def read_up_to(stream: Readable, n_bytes: int) -> bytes:
    """Reads so many bytes, fewer where the stream ends before."""
    pieces, missing = [], n_bytes
    while missing and (piece := stream.read(min(missing, _PIECE_BYTES))):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)
