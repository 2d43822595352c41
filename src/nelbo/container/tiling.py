"""Which tiles of which members a chain holds, and what it must hold to."""

from typing import Protocol, runtime_checkable

from nelbo.container.entries import Entry, FileEntry, Member
from nelbo.container.header import Header
from nelbo.container.records import CONTENT, MAX_BLOCK_PIXELS, Block, BlockKind
from nelbo.errors import CorruptArchiveError, NelboError

MAX_FILES_BYTES = 1 << 27  # Of the pieces of a chain together.


@runtime_checkable
class _Tiles(Protocol):
    """A chain, or its place in the file."""

    @property
    def first_tile(self) -> int: ...

    @property
    def n_tiles(self) -> int: ...

    @property
    def coding(self) -> int: ...


def starting_position(tiles: _Tiles, header: Header) -> tuple[int, int]:
    """Returns the member that a chain begins in, and the number of its first tile there."""
    return header.position(tiles.coding, tiles.first_tile)


def position_after(tiles: _Tiles, header: Header) -> tuple[int, int]:
    """Returns the member and the tile there that come after a chain.

    Raises:
        CorruptArchiveError: If it holds more tiles than there are, or names a coding that is not there.
    """
    try:
        end = tiles.first_tile + tiles.n_tiles
        if end > header.numbering(tiles.coding)[-1]:
            raise CorruptArchiveError(f"{tiles} holds more tiles than there are: the file is damaged")
        return header.position(tiles.coding, end)
    except NelboError as error:
        raise CorruptArchiveError(f"a block does not fit the archive ({error}): the file is damaged") from None


def check_tiles(chain: Block, header: Header) -> None:
    """Checks that a chain holds what the archive has, and what its kind can.

    Raises:
        CorruptArchiveError: If it does not.
    """
    if chain.kind not in CONTENT:
        if chain.kind is BlockKind.RESTS and chain.first_tile + chain.n_tiles > len(header.entries):
            raise CorruptArchiveError(f"{chain} is about more members than there are: the file is damaged")
        return
    (_, first_tile), (_, end_tile) = starting_position(chain, header), position_after(chain, header)
    shape, members = header.coding(chain.coding).tile_shape, members_of(chain, header)
    if chain.kind is BlockKind.FILES:
        if not all(isinstance(each, FileEntry) for each in members):
            raise CorruptArchiveError(f"{chain} holds files, but the archive says images: the file is damaged")
        return
    if not all(isinstance(each, Entry) for each in members):
        raise CorruptArchiveError(f"{chain} holds images, but the archive says files: the file is damaged")
    if chain.n_tiles * shape[1] * shape[2] > MAX_BLOCK_PIXELS:
        raise CorruptArchiveError(f"{chain} claims {chain.n_tiles} tiles, more than 2^31 pixels: the file is damaged")
    if chain.kind is BlockKind.JPEG_XL and (first_tile or end_tile):
        raise CorruptArchiveError(f"{chain} is JPEG XL, but divides an image: the file is damaged")
    if chain.kind is BlockKind.BITS_BACK and not header.coding(chain.coding).gammas:
        raise CorruptArchiveError(f"{chain} needs a time schedule, and there is none: the file is damaged")


def members_of(chain: Block, header: Header) -> list[Member]:
    """Returns the members that a chain holds, the first and the last perhaps not as a whole."""
    (first, _), (end, end_tile) = starting_position(chain, header), position_after(chain, header)
    return list(header.entries[first : end + (end_tile > 0)])
