"""Which members make a chain, and chains that are JPEG XL."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from typing import TypeVar

import numpy as np
from jaxtyping import Shaped

from nelbo.codec import jpegxl
from nelbo.codec.tiles import MODES_OF_MODELS, pixel_shape, pixel_type
from nelbo.container.entries import PIECE_BYTES, Entry, Member
from nelbo.container.framing import join_parts, split_parts
from nelbo.container.header import Header
from nelbo.container.header_bytes import pack_header
from nelbo.container.records import MAX_PAYLOAD_BYTES, Block, BlockKind
from nelbo.container.stream import n_copies
from nelbo.errors import CorruptArchiveError, NelboError

MAX_PIXEL_BYTES = {1: 4, 2: 8}  # Of the modes that a version of the format holds.
MAX_FILES = 1024  # Of a chain.

Pixels = Shaped[np.ndarray, "_ _ ..."]
Policy = Callable[[int, int], bool]
"""Whether bits-back is kept, by the bytes it takes and those that JPEG XL takes."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Source:
    """Members to compress, read when they are needed.

    Attributes:
        entries: Their names, sizes and modes.
        read: Returns the pixels of an image.
    """

    entries: Sequence[Member]
    read: Callable[[int], Pixels]

    @property
    def times(self) -> tuple[int, ...] | None:
        """When each member was last modified, in nanoseconds since 1970; None where that is not kept."""
        return None

    def pixels(self, i: int) -> Pixels:
        """Returns the pixels of an image.

        Raises:
            NelboError: If they are not what its entry says.
        """
        pixels, entry = self.read(i), self.entries[i]
        assert isinstance(entry, Entry), f"{entry.name} has no pixels"
        if pixels.shape != pixel_shape(entry) or pixels.dtype != pixel_type(entry):
            raise NelboError(f"{entry.name} has changed while it was read: compress it again")
        return pixels

    def rest(self, _i: int) -> bytes:
        """Returns what an image's file holds beside its pixels, behind the CRC32C of the file."""
        return b""

    def piece(self, i: int, _number: int) -> bytes:
        """Returns a piece of a file, as it is."""
        raise NelboError(f"{self.entries[i].name} is kept as bytes, and there are none")

    def packed(self, i: int) -> bytes:
        """Returns a file as its format packs it."""
        raise NelboError(f"{self.entries[i].name} is kept as bytes, and there are none")


@dataclass(frozen=True)
class Span:
    """Consecutive members that make a chain.

    Attributes:
        first: The first member.
        end: The one after the last.
        is_coded: Whether the model suits them.
        pieces: Which pieces of its one member, if that is a file of several.
    """

    first: int
    end: int
    is_coded: bool
    pieces: range | None = None


def spans_of(header: Header, n_chain: int) -> Iterator[Span]:
    """Yields the chains of an archive: whole images, which have the model's channels or all have not; and files.

    Args:
        header: The archive's header.
        n_chain: Images of the model's own size a chain; larger ones count as their tiles.
    """
    for kind, run in groupby(range(len(header.entries)), lambda i: _kind(header.entries[i], header)):
        members = list(run)
        if isinstance(kind, bool):
            yield from _image_spans(header, members[0], members[-1] + 1, n_chain, kind)
        else:
            yield from _file_spans(header, members[0], members[-1] + 1)


def _kind(entry: Member, header: Header) -> bool | str:
    return _suits(entry, header) if isinstance(entry, Entry) else entry.format or "its own bytes"


def _image_spans(header: Header, first: int, end: int, n_chain: int, is_coded: bool) -> Iterator[Span]:
    numbering = header.first_tiles
    most = MAX_PAYLOAD_BYTES // (MAX_PIXEL_BYTES[header.version] * header.tile_shape[1] * header.tile_shape[2])
    for i in range(first + 1, end + 1):
        n_tiles = numbering[i] - numbering[first]
        is_full = i < end and numbering[i + 1] - numbering[first] > most
        if i == end or n_tiles >= n_chain or is_full:
            yield Span(first, i, is_coded)
            first = i


def _file_spans(header: Header, first: int, end: int) -> Iterator[Span]:
    entries, n_bytes = header.entries, 0
    for i in range(first, end):
        entry = entries[i]
        n_pieces = entry.n_tiles(header.tile_shape)
        n_next = PIECE_BYTES if isinstance(entry, Entry) else entry.n_bytes
        if i > first and (n_pieces > 1 or n_bytes + n_next > PIECE_BYTES or i - first >= MAX_FILES):
            yield Span(first, i, is_coded=False)
            first, n_bytes = i, 0
        n_bytes += n_next
        if n_pieces > 1:
            yield from (Span(i, i + 1, False, range(k, k + 1)) for k in range(n_pieces))
            first, n_bytes = i + 1, 0
    if first < end:
        yield Span(first, end, is_coded=False)


def grouped(items: Iterable[_T], n: int) -> Iterator[list[_T]]:
    """Yields consecutive items, n at a time."""
    iterator = iter(items)
    while group := list(islice(iterator, n)):
        yield group


def jpeg_xl_block(header: Header, span: Span, images: Sequence[Pixels]) -> Block:
    """Returns images as a chain that is JPEG XL."""
    first_tile = header.first_tiles[span.first]
    payload = join_parts([jpegxl.encode(pixels) for pixels in images])
    return Block(BlockKind.JPEG_XL, header.first_tiles[span.end] - first_tile, first_tile, _hash(images), payload)


def jpeg_xl_images(chain: Block, header: Header) -> list[Pixels]:
    """Returns the images of a chain that is JPEG XL, the inverse of :func:`jpeg_xl_block`.

    Raises:
        CorruptArchiveError: If they are not those that were encoded.
    """
    first = bisect_left(header.first_tiles, chain.first_tile)
    end = bisect_left(header.first_tiles, chain.first_tile + chain.n_tiles)
    parts = split_parts(chain.payload, end - first)
    entries = [entry for entry in header.entries[first:end] if isinstance(entry, Entry)]
    images = [jpegxl.decode(part, pixel_shape(e), pixel_type(e)) for part, e in zip(parts, entries, strict=True)]
    if _hash(images) != chain.pixel_hash:
        raise CorruptArchiveError(f"{chain} decodes to other pixels than were coded: the file is damaged")
    return images


def _hash(images: Sequence[Pixels]) -> bytes:
    return Block.hash_of(pixels.astype(pixels.dtype.newbyteorder("<")).tobytes() for pixels in images)


def _suits(entry: Entry, header: Header) -> bool:
    return entry.mode == MODES_OF_MODELS.get(header.tile_shape[0]) and bool(header.gammas)


HELD_BYTES = 1 << 26


def is_smaller(n_bytes: int, other: int) -> bool:
    """Returns whether so many bytes are fewer than others: the policy of every archive."""
    return n_bytes < other


@dataclass(frozen=True)
class Choice:
    """A chain, and the same tiles as JPEG XL, which it may be.

    Attributes:
        best: The smaller one.
        plain: JPEG XL.
        rests: What the images' files hold beside their pixels, if anything.
    """

    best: Block
    plain: Block
    rests: Block | None = None

    @staticmethod
    def of(coded: Block | None, plain: Block, rests: Block | None = None, policy: Policy = is_smaller) -> "Choice":
        """Returns the choice between a chain that is bits-back, if there is one, and JPEG XL."""
        is_coded = coded is not None and policy(coded.n_bytes, plain.n_bytes)
        return Choice(coded if coded is not None and is_coded else plain, plain, rests)


def settled(
    header: Header, choices: Iterable[Choice], policy: Policy = is_smaller
) -> tuple[Header, Iterator[Sequence[Block]]]:
    """Returns header and chains of the smaller archive: with a schedule and the best chains, or all JPEG XL without.

    The first chains are held back until they save more than the schedule takes, which then is certain for the whole;
    where 64 MB of them do not, the rest is not waited for.
    """
    bare = replace(header, kernel="", gammas=(), plan=b"")
    n_header = len(pack_header(header))
    cost, left = n_header - len(pack_header(bare)), iter(choices)
    held: list[Choice] = []
    n_best = n_plain = n_coded = 0

    def pays(n_headers: int) -> bool:
        return n_coded > 0 and policy(n_best + n_headers * cost, n_plain)

    for choice in left:
        held.append(choice)
        n_best, n_plain = n_best + choice.best.n_bytes, n_plain + choice.plain.n_bytes
        n_coded += choice.best is not choice.plain
        is_paid = pays(2)
        if is_paid or n_plain >= HELD_BYTES:
            break
    else:
        is_paid = pays(n_copies(n_header, n_best))
    if is_paid:
        return header, (_with_rests(each.rests, each.best) for each in chain(held, left))
    return bare, (_with_rests(each.rests, each.plain) for each in chain(held, left))


def _with_rests(rests: Block | None, content: Block) -> Sequence[Block]:
    return [content] if rests is None else [rests, content]
