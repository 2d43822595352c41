"""The ``.nelbo`` file as a whole: a header, chains of coded tiles, an index. Bytes alone; see docs/format.md.

The header is at the front and the chains follow in order, so that a stream decodes forwards; the index at the end
says where each chain lies, so that listing and single images need no pass over the file. Every byte is under a
CRC32C, and every chain has its own: :func:`recover` finds those that are whole by their magic.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from nelbo.container.framing import Readable, Seekable, Writable, checked, read_exactly, unchecked
from nelbo.container.header import Header
from nelbo.container.header_bytes import SIGNATURE, pack_header, read_header
from nelbo.container.records import (
    BLOCK_HEAD_BYTES,
    BLOCK_MAGIC,
    CONTENT,
    Block,
    pack_block,
    read_block,
)
from nelbo.container.tiling import check_tiles, position_after, starting_position
from nelbo.errors import CorruptArchiveError, NelboError

INDEX_MAGIC, END_MAGIC = b"\x89nIx", b"\x89NBOEND\n"
_INDEX = struct.Struct("<4sII")  # Magic, chains, bytes of the header's copy.
_PLACE = struct.Struct("<IQ")  # Tiles and bytes of a chain of version 1.
_PLACE_2 = struct.Struct("<BBHIQQ")  # Of version 2: kind, coding, 0, tiles, first tile or member, bytes.
_FOOTER = struct.Struct("<Q")  # Bytes of the index with its CRC32C; the footer's CRC32C and the end's magic follow.
_FOOTER_BYTES = _FOOTER.size + 4 + len(END_MAGIC)
_COPY_RATIO = 100  # The header is kept twice where the chains are a hundred times as long.
_WINDOW_BYTES = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where a chain lies in the file, and what it holds; version 1 does not say of which kind it is."""

    offset: int
    n_bytes: int
    first_tile: int
    n_tiles: int
    kind: int = 0
    coding: int = 0


class ArchiveWriter:
    """Writes an archive forwards: the header at once, chains in order, the index at the end.

    Args:
        stream: Where to; it need not seek.
        header: What all chains share.
    """

    def __init__(self, stream: Writable, header: Header) -> None:
        self._stream, self._header, self._packed = stream, header, pack_header(header)
        self._places: list[Place] = []
        stream.write(self._packed)

    def add(self, chain: Block) -> None:
        """Writes the next chain.

        Raises:
            NelboError: If its tiles do not follow those of the last one, or it divides an image that is JPEG XL.
        """
        data = pack_block(chain, self._header)
        self._places.append(_place_of(chain, self._header, self._places, len(data)))
        self._stream.write(data)

    def close(self) -> None:
        """Writes the index.

        Raises:
            NelboError: If tiles are missing.
        """
        if not _is_complete(self._places, self._header):
            raise NelboError("an archive was closed before all of its tiles were written")
        n_bytes = sum(place.n_bytes for place in self._places)
        copy = self._packed if n_copies(len(self._packed), n_bytes) > 1 else b""
        index = checked(_pack_index(self._places, copy, self._header))
        self._stream.write(index + checked(_FOOTER.pack(len(index))) + END_MAGIC)


def n_copies(n_header: int, n_chains: int) -> int:
    """Returns how often a header of so many bytes is in an archive with so many bytes of chains."""
    return 2 if n_chains >= _COPY_RATIO * n_header else 1


class ArchiveReader:
    """Reads an archive forwards, checking everything.

    Args:
        stream: Where from; it need not seek.

    Attributes:
        header: What all chains share.

    Raises:
        CorruptArchiveError: If the first bytes are damaged.
        UnsupportedArchiveError: If a newer version wrote them.
    """

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.header, self._packed = read_header(stream)

    def chains(self) -> Iterator[Block]:
        """Yields the chains in order; after the last, checks that the index fits and that the file ends there.

        Raises:
            CorruptArchiveError: If something is damaged.
        """
        places: list[Place] = []
        while not _is_complete(places, self.header):
            chain = read_block(self._stream, self.header)
            places.append(_place_of(chain, self.header, places, chain.n_bytes))
            yield chain
        self._check_end(places)

    def _check_end(self, places: list[Place]) -> None:
        head = read_exactly(self._stream, _INDEX.size)
        magic, n_chains, n_copy = _INDEX.unpack(head)
        if magic != INDEX_MAGIC or n_chains != len(places) or n_copy not in (0, len(self._packed)):
            raise CorruptArchiveError("the archive's index does not fit its chains: the file is damaged")
        index = head + read_exactly(self._stream, _place_bytes(self.header) * n_chains + n_copy + 4)
        if index != checked(_pack_index(places, self._packed if n_copy else b"", self.header)):
            raise CorruptArchiveError("the archive's index does not fit its chains: the file is damaged")
        _check_footer(read_exactly(self._stream, _FOOTER_BYTES), len(index))
        if self._stream.read(1):
            raise CorruptArchiveError("the archive has bytes after its end: the file is damaged")


def read_places(stream: Seekable) -> tuple[Header, list[Place]]:
    """Reads header and index of a file that can seek, without its chains; read one with :func:`read_block_at`.

    Raises:
        CorruptArchiveError: If one of them is damaged.
        UnsupportedArchiveError: If a newer version wrote the file.
    """
    stream.seek(0)
    header, packed = read_header(stream)
    n_file = stream.seek(0, 2)
    if n_file < len(packed) + _INDEX.size + _FOOTER_BYTES:
        raise CorruptArchiveError("the archive ends before its index: it was cut off, fetch it again")
    stream.seek(n_file - _FOOTER_BYTES)
    n_index = _check_footer(read_exactly(stream, _FOOTER_BYTES))
    start = n_file - _FOOTER_BYTES - n_index
    if n_index > n_file or start < len(packed):
        raise CorruptArchiveError("the archive's index is longer than the file: the file is damaged")
    stream.seek(start)
    index = unchecked(read_exactly(stream, n_index), "the index")
    if (len(index) - _INDEX.size - len(packed)) // _place_bytes(header) * BLOCK_HEAD_BYTES > start:
        raise CorruptArchiveError("the archive's index has more chains than the file: the file is damaged")
    places = _unpack_index(index, packed, header)
    if len(packed) + sum(place.n_bytes for place in places) != start:
        raise CorruptArchiveError("the archive's index does not fit its chains: the file is damaged")
    if not _is_complete(places, header):
        raise CorruptArchiveError("the archive's index does not hold all of its tiles: the file is damaged")
    return header, places


def read_block_at(stream: Seekable, header: Header, place: Place) -> Block:
    """Reads the chain at a place of the index.

    Raises:
        CorruptArchiveError: If it is damaged, or another one.
    """
    stream.seek(place.offset)
    chain = read_block(stream, header)
    if (chain.first_tile, chain.n_tiles, chain.n_bytes) != (place.first_tile, place.n_tiles, place.n_bytes):
        raise CorruptArchiveError("the archive's index does not fit its chains: the file is damaged")
    check_tiles(chain, header)
    return chain


def recover_header(stream: Seekable) -> Header:
    """Returns the header of a damaged file that can seek: the one at the front, or its copy in the index.

    Raises:
        CorruptArchiveError: If neither is whole.
        UnsupportedArchiveError: If a newer version wrote it.
    """
    for offset in _find(stream, SIGNATURE):
        stream.seek(offset)
        try:
            return read_header(stream)[0]
        except CorruptArchiveError:
            continue
    raise CorruptArchiveError("the archive has no header that is whole: nothing says which model and names it has")


def recover_blocks(stream: Seekable, header: Header) -> Iterator[Block]:
    """Yields the chains that are whole in a damaged file that can seek.

    A chain whose own header is whole but whose payload is not may overlap the next, so the search goes on within
    it, until that has cost eight times the file; then it skips what such headers claim.
    """
    resume, patience = 0, 8 * stream.seek(0, 2)
    for offset in _find(stream, BLOCK_MAGIC):
        if offset < resume:
            continue
        stream.seek(offset)
        try:
            chain = read_block(stream, header)
            check_tiles(chain, header)
        except NelboError:
            n_read = stream.tell() - offset
            patience -= n_read
            resume = offset + n_read if patience < 0 else offset + 1
            continue
        resume = offset + chain.n_bytes
        yield chain


# Places


def _is_complete(places: list[Place], header: Header) -> bool:
    """Returns whether the chains at some places hold every tile."""
    last = next((place for place in reversed(places) if place.kind in (0, *CONTENT)), None)
    return last is not None and position_after(last, header) == (len(header.entries), 0)


def _place_of(chain: Block, header: Header, places: list[Place], n_bytes: int) -> Place:
    """Returns the place of the next chain; the offset counts from the end of the header."""
    last = next((place for place in reversed(places) if place.kind in CONTENT), None)
    check_tiles(chain, header)
    expected = (0, 0) if last is None else position_after(last, header)
    if chain.kind in CONTENT and starting_position(chain, header) != expected:
        raise CorruptArchiveError(f"{chain} does not follow the chain before it: the file is damaged")
    offset = places[-1].offset + places[-1].n_bytes if places else 0
    return Place(offset, n_bytes, chain.first_tile, chain.n_tiles, chain.kind, chain.coding)


# The index


def _place_bytes(header: Header) -> int:
    return _PLACE.size if header.version == 1 else _PLACE_2.size


def _pack_index(places: list[Place], copy: bytes, header: Header) -> bytes:
    packed = b"".join(_pack_place(place, header) for place in places)
    return _INDEX.pack(INDEX_MAGIC, len(places), len(copy)) + packed + copy


def _pack_place(place: Place, header: Header) -> bytes:
    if header.version == 1:
        return _PLACE.pack(place.n_tiles, place.n_bytes)
    return _PLACE_2.pack(place.kind, place.coding, 0, place.n_tiles, place.first_tile, place.n_bytes)


def _unpack_index(index: bytes, packed_header: bytes, header: Header) -> list[Place]:
    magic, n_chains, n_copy = _INDEX.unpack_from(index) if len(index) >= _INDEX.size else (b"", 0, 0)
    end = _INDEX.size + _place_bytes(header) * n_chains
    if magic != INDEX_MAGIC or len(index) != end + n_copy or index[end:] not in (b"", packed_header):
        raise CorruptArchiveError("the archive's index is not whole: the file is damaged")
    places, offset, first_tile = [], len(packed_header), 0
    if header.version == 1:
        for n_tiles, n_bytes in _PLACE.iter_unpack(index[_INDEX.size : end]):
            places.append(Place(offset, n_bytes, first_tile, n_tiles))
            offset, first_tile = offset + n_bytes, first_tile + n_tiles
        return places
    for kind, coding, _, n_tiles, first_tile, n_bytes in _PLACE_2.iter_unpack(index[_INDEX.size : end]):
        places.append(Place(offset, n_bytes, first_tile, n_tiles, kind, coding))
        offset += n_bytes
    return places


def _check_footer(footer: bytes, n_index: int | None = None) -> int:
    """Returns the index's length that the file's last bytes hold; it may be known."""
    if not footer.endswith(END_MAGIC):
        raise CorruptArchiveError("the archive does not end like one: it was cut off, fetch it again")
    (found,) = _FOOTER.unpack(unchecked(footer[: -len(END_MAGIC)], "the end"))
    if n_index not in (None, found):
        raise CorruptArchiveError("the archive's end does not fit its index: the file is damaged")
    return found


# Searching


def _find(stream: Seekable, magic: bytes) -> Iterator[int]:
    """Yields where a byte string begins in a file, which may be read elsewhere in between."""
    offset, kept = 0, b""
    while True:
        stream.seek(offset)
        window = stream.read(_WINDOW_BYTES)
        if not window:
            return
        data, base = kept + window, offset - len(kept)
        at = data.find(magic)
        while at >= 0:
            yield base + at
            at = data.find(magic, at + 1)
        offset, kept = offset + len(window), data[-(len(magic) - 1) :]
