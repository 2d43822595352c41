"""Bytes on streams: checksums, lists of parts, and reading that a false length cannot fool."""

import itertools
import struct
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol, runtime_checkable

import google_crc32c

from nelbo.errors import CorruptArchiveError, UnsupportedArchiveError

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


def split_some_parts(data: bytes, most: int) -> list[bytes]:
    """Returns the byte strings that were joined, as many as they say, one at least and ``most`` at most.

    Raises:
        CorruptArchiveError: As :func:`split_parts`.
    """
    n_parts = U32.unpack_from(data)[0] if len(data) >= U32.size else 0
    if not 1 <= n_parts <= most:
        raise CorruptArchiveError(f"a list of parts holds {n_parts} of them: the file is damaged")
    return split_parts(data, n_parts)


def join_sections(sections: Iterable[tuple[str, bytes]]) -> bytes:
    """Returns named byte strings one after the other: a name of four letters, the length, the bytes."""
    return b"".join(name.encode("ascii") + U32.pack(len(data)) + data for name, data in sections)


def split_sections(data: bytes, known: Collection[str]) -> list[tuple[str, bytes]]:
    """Returns the named byte strings that were joined, the inverse of :func:`join_sections`.

    Args:
        data: The joined byte strings.
        known: The names that the caller understands. A section of another name is left out if its first letter is
            small; if it is a capital, nothing can be made of the file without it.

    Raises:
        CorruptArchiveError: If the lengths do not fit.
        UnsupportedArchiveError: If an unknown section is critical.
    """
    sections, at = [], 0
    while at < len(data):
        name, length = data[at : at + 4], data[at + 4 : at + 8]
        end = at + 8 + (U32.unpack(length)[0] if len(length) == 4 else len(data))
        if not (name.isascii() and name.isalpha()) or end > len(data):
            raise CorruptArchiveError("a section of the header is not whole: the file is damaged")
        text = name.decode("ascii")
        if text in known:
            sections.append((text, data[at + 8 : end]))
        elif text[0].isupper():
            raise UnsupportedArchiveError(f"the archive has a section {text}: upgrade nelbo to read it")
        at = end
    return sections


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
