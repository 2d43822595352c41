"""Which images make a chain, and chains that are JPEG XL."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TypeVar

import numpy as np
from jaxtyping import Shaped

from nelbo.codec import jpegxl
from nelbo.codec.tiles import MODES_OF_MODELS, pixel_shape, pixel_type
from nelbo.container.entries import Entry
from nelbo.container.framing import join_parts, split_parts
from nelbo.container.records import MAX_PAYLOAD_BYTES, Chain, Header, Kind, pack_header
from nelbo.container.stream import n_copies
from nelbo.errors import CorruptArchiveError, NelboError

MAX_PIXEL_BYTES = 4  # Of the modes that an archive holds.

Pixels = Shaped[np.ndarray, "_ _ ..."]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Source:
    """Images to compress, read when they are needed.

    Attributes:
        entries: Their names, sizes and modes.
        read: Returns the pixels of one.
    """

    entries: Sequence[Entry]
    read: Callable[[int], Pixels]

    def pixels(self, i: int) -> Pixels:
        """Returns the pixels of an image.

        Raises:
            NelboError: If they are not what its entry says.
        """
        pixels, entry = self.read(i), self.entries[i]
        if pixels.shape != pixel_shape(entry) or pixels.dtype != pixel_type(entry):
            raise NelboError(f"{entry.name} has changed while it was read: compress it again")
        return pixels


@dataclass(frozen=True)
class Span:
    """Consecutive images that make a chain.

    Attributes:
        first: The first image.
        end: The one after the last.
        is_coded: Whether the model suits them.
    """

    first: int
    end: int
    is_coded: bool


def spans_of(header: Header, n_chain: int) -> Iterator[Span]:
    """Yields the chains of an archive: whole images, which have the model's channels or all have not.

    Args:
        header: The archive's header.
        n_chain: Images of the model's own size a chain; larger ones count as their tiles.
    """
    first, entries = 0, header.entries
    most = MAX_PAYLOAD_BYTES // (MAX_PIXEL_BYTES * header.tile_shape[1] * header.tile_shape[2])
    for i in range(1, len(entries) + 1):
        n_tiles = header.first_tiles[i] - header.first_tiles[first]
        is_full = i < len(entries) and header.first_tiles[i + 1] - header.first_tiles[first] > most
        differs = i < len(entries) and _suits(entries[i], header) != _suits(entries[first], header)
        if i == len(entries) or n_tiles >= n_chain or is_full or differs:
            yield Span(first, i, _suits(entries[first], header))
            first = i


def grouped(items: Iterable[_T], n: int) -> Iterator[list[_T]]:
    """Yields consecutive items, n at a time."""
    iterator = iter(items)
    while group := list(islice(iterator, n)):
        yield group


def jpeg_xl_chain(header: Header, span: Span, images: Sequence[Pixels]) -> Chain:
    """Returns images as a chain that is JPEG XL."""
    first_tile = header.first_tiles[span.first]
    payload = join_parts([jpegxl.encode(pixels) for pixels in images])
    return Chain(Kind.JPEG_XL, header.first_tiles[span.end] - first_tile, first_tile, _hash(images), payload)


def jpeg_xl_images(chain: Chain, header: Header) -> list[Pixels]:
    """Returns the images of a chain that is JPEG XL, the inverse of :func:`jpeg_xl_chain`.

    Raises:
        CorruptArchiveError: If they are not those that were encoded.
    """
    first = bisect_left(header.first_tiles, chain.first_tile)
    end = bisect_left(header.first_tiles, chain.first_tile + chain.n_tiles)
    parts = split_parts(chain.payload, end - first)
    entries = header.entries[first:end]
    images = [jpegxl.decode(part, pixel_shape(e), pixel_type(e)) for part, e in zip(parts, entries, strict=True)]
    if _hash(images) != chain.pixel_hash:
        raise CorruptArchiveError(f"{chain} decodes to other pixels than were coded: the file is damaged")
    return images


def _hash(images: Sequence[Pixels]) -> bytes:
    return Chain.hash_of(pixels.astype(pixels.dtype.newbyteorder("<")).tobytes() for pixels in images)


def _suits(entry: Entry, header: Header) -> bool:
    return entry.mode == MODES_OF_MODELS.get(header.tile_shape[0]) and bool(header.gammas)


HELD_BYTES = 1 << 26


@dataclass(frozen=True)
class Choice:
    """A chain, and the same tiles as JPEG XL, which it may be.

    Attributes:
        best: The smaller one.
        plain: JPEG XL.
    """

    best: Chain
    plain: Chain

    @staticmethod
    def of(coded: Chain | None, plain: Chain) -> "Choice":
        """Returns the choice between a chain that is bits-back, if there is one, and JPEG XL."""
        return Choice(plain if coded is None or not is_smaller(coded.n_bytes, plain.n_bytes) else coded, plain)


def settled(header: Header, choices: Iterable[Choice]) -> tuple[Header, Iterator[Chain]]:
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
        return n_coded > 0 and is_smaller(n_best + n_headers * cost, n_plain)

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
        return header, (each.best for each in chain(held, left))
    return bare, (each.plain for each in chain(held, left))


def is_smaller(n_bytes: int, other: int) -> bool:
    """Returns whether so many bytes are fewer than others."""
    return n_bytes < other
