"""Chains of files that are kept as bytes, and of what the files of images hold beside their pixels."""

import google_crc32c

from nelbo.codec.layout import Pixels, Source, Span
from nelbo.container.compression import compress, decompress
from nelbo.container.entries import PIECE_BYTES, Entry, FileEntry
from nelbo.container.framing import U32, join_parts, split_parts
from nelbo.container.header import Header
from nelbo.container.records import Block, BlockKind
from nelbo.container.tiling import MAX_FILES_BYTES
from nelbo.data.image_formats import IMAGE_FORMATS, PackedFile, PixelFile
from nelbo.errors import CorruptArchiveError, NelboError, UnsupportedArchiveError, one_line

_MAX_RESTS_BYTES = 1 << 30


def files_block(header: Header, source: Source, span: Span) -> Block:
    """Returns files, or pieces of one, as a chain.

    Raises:
        NelboError: If a file has changed since it was found.
    """
    parts, originals = [], []
    for i in range(span.first, span.end):
        entry = header.entries[i]
        assert isinstance(entry, FileEntry), "a span of files holds files"
        for k in span.pieces or range(entry.n_tiles()):
            original = source.piece(i, k)
            if len(original) != _piece_bytes(entry, k):
                raise NelboError(f"{entry.name!a} has changed while it was read: compress it again")
            originals.append(original)
            parts.append(source.packed(i) if entry.format else original)
    packed = join_parts(parts)
    is_packed = any(entry.format for entry in header.entries[span.first : span.end])
    payload = b"\0" + packed if is_packed else compress(packed)
    first_tile = header.first_tiles[span.first] + (span.pieces.start if span.pieces else 0)
    chain = Block(BlockKind.FILES, len(parts), first_tile, Block.hash_of(originals), payload)
    if file_pieces(chain, header) != originals:
        raise NelboError("a file did not come back from what was stored of it: please report this")
    return chain


def file_pieces(chain: Block, header: Header) -> list[bytes]:
    """Returns the pieces of files that a chain holds, the inverse of :func:`files_block`.

    Raises:
        CorruptArchiveError: If they are not those that were stored.
        UnsupportedArchiveError: If their format is not known here.
    """
    tiles = (header.position(chain.coding, chain.first_tile + i) for i in range(chain.n_tiles))
    places = [(entry, k) for i, k in tiles if isinstance(entry := header.entries[i], FileEntry)]
    n_bytes = sum(_piece_bytes(entry, k) for entry, k in places)
    if n_bytes > MAX_FILES_BYTES + PIECE_BYTES:
        raise CorruptArchiveError(f"{chain} claims {n_bytes} bytes of files, more than 2^27: the file is damaged")
    longest = max(n_bytes, len(chain.payload)) + U32.size * (1 + len(places))
    parts = split_parts(decompress(chain.payload, longest), len(places))
    pieces = [_unpacked(part, entry) if entry.format else part for part, (entry, _) in zip(parts, places, strict=True)]
    lengths = [_piece_bytes(entry, k) for entry, k in places]
    if [len(piece) for piece in pieces] != lengths or Block.hash_of(pieces) != chain.pixel_hash:
        raise CorruptArchiveError(f"{chain} holds other files than were stored: the file is damaged")
    return pieces


def rests_block(header: Header, source: Source, span: Span) -> Block | None:
    """Returns what the files of images hold beside their pixels; None if that is nothing."""
    if not any(entry.format for entry in header.entries[span.first : span.end]):
        return None
    rests = [source.rest(i) for i in range(span.first, span.end)]
    return Block(BlockKind.RESTS, len(rests), span.first, Block.hash_of(rests), compress(join_parts(rests)))


def rests_of(chain: Block) -> list[bytes]:
    """Returns the rest of each image that a chain is about, the inverse of :func:`rests_block`.

    Raises:
        CorruptArchiveError: If they are not those that were stored.
    """
    rests = split_parts(decompress(chain.payload, _MAX_RESTS_BYTES), chain.n_tiles)
    if Block.hash_of(rests) != chain.pixel_hash:
        raise CorruptArchiveError("what images have beside their pixels is not what was stored: the file is damaged")
    return rests


def joined_file(entry: Entry, pixels: Pixels, rest: bytes) -> tuple[bytes, bool]:
    """Returns the file of an image, and whether it is the very one that was stored.

    It may not be where an encoder of this machine deflates otherwise: then pixels and metadata are the same.

    Raises:
        CorruptArchiveError: If the rest is damaged.
        UnsupportedArchiveError: If the format is not known here.
    """
    known = _files_of(entry)
    if not isinstance(known, PixelFile):
        raise _unknown(entry)
    try:
        data = known.join(pixels, rest[U32.size :])
    except MemoryError:
        raise
    except Exception as error:  # What was stored under a true checksum may still be forged.
        raise CorruptArchiveError(f"{entry.name!a} cannot be put together ({one_line(error)[:80]})") from None
    return data, U32.pack(google_crc32c.value(data)) == rest[: U32.size]


def _unpacked(part: bytes, entry: FileEntry) -> bytes:
    known = _files_of(entry)
    if not isinstance(known, PackedFile):
        raise _unknown(entry)
    try:
        return known.unpack(part, entry.n_bytes)
    except ValueError as error:
        raise CorruptArchiveError(f"{entry.name!a}: {error}") from None


def _files_of(entry: Entry | FileEntry) -> PixelFile | PackedFile | None:
    return IMAGE_FORMATS[entry.format].files if entry.format in IMAGE_FORMATS else None


def _unknown(entry: Entry | FileEntry) -> UnsupportedArchiveError:
    return UnsupportedArchiveError(f"{entry.name!a} is a file of format {entry.format!a}: upgrade nelbo to read it")


def _piece_bytes(entry: FileEntry, k: int) -> int:
    return entry.n_bytes if entry.format else min(PIECE_BYTES, entry.n_bytes - k * PIECE_BYTES)
