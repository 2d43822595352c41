"""The records that follow the header of a ``.nelbo`` file: chains of coded tiles, and what else version 2 stores.

Whatever is wrong with a file ends in one of three errors: it is damaged (:class:`CorruptArchiveError`), from a newer
version (:class:`UnsupportedArchiveError`), or made with another model (:class:`WrongModelError`). Every length is
compared with its limit, and what a stream holds is read piece by piece, so no field can make the reader allocate more
than the file has bytes, apart from what docs/format.md states: the list of images, the plan, a chain's pixels.
"""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

import google_crc32c

from nelbo.container.framing import U32, Readable, read_exactly
from nelbo.container.header import Header
from nelbo.errors import CorruptArchiveError, NelboError, UnsupportedArchiveError

MAX_PAYLOAD_BYTES = 1 << 30
MAX_TILES = (1 << 32) - 1  # Of a chain.
MAX_BLOCK_PIXELS = 1 << 31  # Of a chain's tiles together: what its few bytes may make a reader allocate.
BLOCK_MAGIC = b"\x89nCh"
PIXEL_HASH_BYTES = 16

_CHAIN = struct.Struct("<BBHIQ16sQQQIIQI")  # The fields of Block in the file's order; its payload's length and CRC32C.
_POSITION = struct.Struct("<II")  # In version 2 a member and a tile of it, in place of the number of the first tile.
BLOCK_HEAD_BYTES = len(BLOCK_MAGIC) + U32.size + _CHAIN.size


class BlockKind(IntEnum):
    """What the payload of a record is. Version 1 has the first two.

    ``BITS_BACK`` are the words of a message, ``JPEG_XL`` are JPEG XL files as parts, ``FILES`` pieces of files,
    ``RESTS`` what the files of images hold beside their pixels, ``MODEL`` a frozen model's file and ``PLAN`` a plan.
    """

    BITS_BACK = 1
    JPEG_XL = 2
    FILES = 3
    RESTS = 4
    MODEL = 5
    PLAN = 6


CONTENT = (BlockKind.BITS_BACK, BlockKind.JPEG_XL, BlockKind.FILES)  # What every tile and piece is in, once.
ANCILLARY = 128  # A record of an unknown kind from here on may be left out.


@dataclass(frozen=True)
class Block:
    """Consecutive tiles, coded on one message; the tiles of all images are numbered through in reading order.

    Attributes:
        kind: What the payload is.
        n_tiles: How many tiles it holds.
        first_tile: The number of the first.
        pixel_hash: BLAKE2b with 16 bytes of the pixels, see docs/format.md.
        head_q: Head Q of the message, 0 for JPEG XL; like the next four.
        head_p: Head P of the message.
        counter: The keystream's counter.
        n_seed_tiles: How many tiles, the chain's last ones, are in the seed.
        n_seed_bytes: The length of the seed, before it was padded to whole words.
        payload: The words of the message, the top of the stack last, or the parts that are JPEG XL files.
        coding: The number of the header's coding, which says what a tile is.
    """

    kind: BlockKind | int
    n_tiles: int
    first_tile: int
    pixel_hash: bytes
    payload: bytes = field(repr=False)
    head_q: int = 0
    head_p: int = 0
    counter: int = 0
    n_seed_tiles: int = 0
    n_seed_bytes: int = 0
    coding: int = 0

    def __post_init__(self) -> None:
        heads, words = (self.head_q, self.head_p), len(self.payload) % 4 == 0
        if self.kind is BlockKind.BITS_BACK and not (words and min(heads) >= 1 << 32):
            raise CorruptArchiveError(f"{self} has no heads of a message, or no whole words: the file is damaged")
        if self.kind in set(BlockKind) - {BlockKind.BITS_BACK} and any(
            (*heads, self.counter, self.n_seed_tiles, self.n_seed_bytes)
        ):
            raise CorruptArchiveError(f"{self} is no message, but has the heads of one: the file is damaged")
        fewest = 1 if self.kind in (*CONTENT, BlockKind.RESTS) else 0
        if not (fewest <= self.n_tiles <= MAX_TILES and self.n_seed_tiles <= self.n_tiles):
            raise CorruptArchiveError(f"{self} has an invalid number of tiles: the file is damaged")

    @staticmethod
    def hash_of(pixels: Iterable[bytes]) -> bytes:
        """Returns the pixel hash of the bytes of a chain's tiles or images, in order."""
        digest = hashlib.blake2b(digest_size=PIXEL_HASH_BYTES)
        for piece in pixels:
            digest.update(piece)
        return digest.digest()

    @property
    def n_bytes(self) -> int:
        """The bytes that the chain takes in the file."""
        return BLOCK_HEAD_BYTES + len(self.payload)

    def __str__(self) -> str:
        return f"the chain of tiles {self.first_tile} to {self.first_tile + self.n_tiles - 1}"


def pack_block(chain: Block, header: Header | None = None) -> bytes:
    """Returns a chain's bytes: its magic, the CRC32C of its fields, the fields, the payload.

    Args:
        chain: The chain.
        header: The header of a version 2 archive.

    Raises:
        NelboError: If the payload is longer than readers take.
    """
    if len(chain.payload) > MAX_PAYLOAD_BYTES:
        raise NelboError(
            f"{chain} takes {len(chain.payload)} bytes, the limit is {MAX_PAYLOAD_BYTES}: split its images"
        )
    fields = _CHAIN.pack(
        chain.kind,
        chain.coding,
        0,
        chain.n_tiles,
        chain.first_tile if header is None or header.version == 1 else _packed_position(chain, header),
        chain.pixel_hash,
        chain.head_q,
        chain.head_p,
        chain.counter,
        chain.n_seed_tiles,
        chain.n_seed_bytes,
        len(chain.payload),
        google_crc32c.value(chain.payload),
    )
    return BLOCK_MAGIC + U32.pack(google_crc32c.value(fields)) + fields + chain.payload


def read_block(stream: Readable, header: Header | None = None) -> Block:
    """Reads a chain at the stream's place, the inverse of :func:`pack_block`.

    Raises:
        CorruptArchiveError: If it is damaged.
    """
    head = read_exactly(stream, BLOCK_HEAD_BYTES)
    (crc,) = U32.unpack_from(head, len(BLOCK_MAGIC))
    fields = head[len(BLOCK_MAGIC) + U32.size :]
    if not head.startswith(BLOCK_MAGIC) or google_crc32c.value(fields) != crc:
        raise CorruptArchiveError("a chain's header is damaged: recover the other chains with `nelbo recover`")
    kind, coding, flags, n_tiles, first, pixel_hash, q, p, counter, n_seed_tiles, n_seed, n_bytes, crc = _CHAIN.unpack(
        fields
    )
    if header is None or header.version == 1:
        kinds, coding, flags = (BlockKind.BITS_BACK, BlockKind.JPEG_XL), 0, 0
    else:
        kinds, first = tuple(BlockKind), _unpacked_position(kind, coding, first, header)
    if flags or (kind not in kinds and (kinds == (BlockKind.BITS_BACK, BlockKind.JPEG_XL) or kind < ANCILLARY)):
        raise UnsupportedArchiveError(f"a block is of kind {kind}, flags {flags}: upgrade nelbo to read it")
    if n_bytes > MAX_PAYLOAD_BYTES:
        raise CorruptArchiveError(f"a chain claims {n_bytes} bytes, the limit is {MAX_PAYLOAD_BYTES}")
    payload = read_exactly(stream, n_bytes)
    if google_crc32c.value(payload) != crc:
        raise CorruptArchiveError(
            f"{_named(first, n_tiles, coding, header)} are damaged: recover the other files with `nelbo recover`"
        )
    kind = BlockKind(kind) if kind in kinds else kind
    return Block(kind, n_tiles, first, pixel_hash, payload, q, p, counter, n_seed_tiles, n_seed, coding)


def _packed_position(chain: Block, header: Header) -> int:
    position = header.position(chain.coding, chain.first_tile) if chain.kind in CONTENT else (chain.first_tile, 0)
    return int.from_bytes(_POSITION.pack(*position), "little")


def _unpacked_position(kind: int, coding: int, packed: int, header: Header) -> int:
    """Returns the number of a chain's first tile, or of the first member that a record without tiles is about."""
    member, tile = _POSITION.unpack(packed.to_bytes(8, "little"))
    if kind not in CONTENT:
        return member
    try:
        return header.tile(coding, (member, tile))
    except NelboError as error:
        raise CorruptArchiveError(f"a block does not fit the archive ({error}): the file is damaged") from None


def _named(first: int, n_tiles: int, coding: int, header: Header | None) -> str:
    """Returns what a damaged chain holds: the files, where they are known."""
    if header is None or first + n_tiles > header.numbering(coding)[-1]:
        return f"tiles {first} to {first + n_tiles - 1}"
    members = [header.position(coding, tile)[0] for tile in (first, first + n_tiles - 1)]
    names = [ascii(header.entries[member].name)[1:-1] for member in members]
    return f"the pixels of {names[0]}" if members[0] == members[1] else f"the files {names[0]} to {names[1]}"
