"""Members from what blocks hold: images from tiles, files from pieces, in whatever order they come."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO

import numpy as np
from jaxtyping import Shaped, UInt8

from nelbo.codec.tiles import joined
from nelbo.container.entries import PIECE_BYTES, Entry, FileEntry, Member
from nelbo.container.header import Header
from nelbo.container.records import Block, BlockKind
from nelbo.errors import CorruptArchiveError

Pixels = Shaped[np.ndarray, "_ _ ..."]
Tiles = UInt8[np.ndarray, "_ _ _ _"]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image whose file held more than its pixels.

    Attributes:
        pixels: Its pixels.
        rest: What its file holds beside them; None if that was lost.
    """

    pixels: Pixels
    rest: bytes | None


Restored = Pixels | Picture | IO[bytes]
"""A member: its pixels, its pixels and the rest, or a file's bytes as a stream at its beginning."""
Content = list[Pixels] | Tiles | list[bytes] | Exception
"""What a chain holds: whole images if it is JPEG XL, tiles if it is bits-back, pieces of files or the rests of images;
or the error that it ended in."""


class Assembly:
    """Puts members together.

    Args:
        header: The archive's header.
    """

    def __init__(self, header: Header) -> None:
        self._header = header
        self._tiles: dict[tuple[int, int], UInt8[np.ndarray, "c h w"]] = {}
        self._rests: dict[int, bytes] = {}
        self._files: dict[int, tuple[IO[bytes], set[int]]] = {}
        self._done: set[int] = set()

    def add(self, chain: Block, content: Content) -> Iterator[tuple[Member, Restored]]:
        """Yields the members that a chain completes, each once, though a damaged file may repeat a chain."""
        if isinstance(content, Exception):
            return
        header = self._header
        if chain.kind is BlockKind.RESTS:
            self._rests |= {chain.first_tile + i: rest for i, rest in enumerate(content) if isinstance(rest, bytes)}
            return
        if chain.kind is BlockKind.FILES:
            whole = self._completed_files(chain, content)
        elif isinstance(content, list):
            first = bisect_left(header.numbering(chain.coding), chain.first_tile)
            whole = ((first + i, pixels) for i, pixels in enumerate(content))
        else:
            self._tiles |= {(chain.coding, chain.first_tile + i): tile for i, tile in enumerate(content)}
            whole = self._completed_images(chain)
        for i, restored in whole:
            if i not in self._done:
                self._done.add(i)
                yield header.entries[i], self._with_rest(i, restored)

    def _with_rest(self, i: int, restored: Restored | bytes) -> Restored:
        entry, rest = self._header.entries[i], self._rests.pop(i, None)
        if isinstance(entry, Entry) and entry.format and isinstance(restored, np.ndarray):
            return Picture(restored, rest)
        assert not isinstance(restored, bytes), "pieces were joined"
        return restored

    def _completed_images(self, chain: Block) -> Iterator[tuple[int, Pixels]]:
        """Yields the images that a chain's tiles complete, and takes their tiles out."""
        numbering = self._header.numbering(chain.coding)
        last = bisect_left(numbering, chain.first_tile + chain.n_tiles)
        for i in range(bisect_right(numbering, chain.first_tile) - 1, last):
            wanted = range(numbering[i], numbering[i + 1])  # A forged image may claim very many.
            entry = self._header.entries[i]
            if all((chain.coding, tile) in self._tiles for tile in wanted) and isinstance(entry, Entry):
                yield i, joined(np.stack([self._tiles.pop((chain.coding, tile)) for tile in wanted]), entry)

    def _completed_files(
        self, chain: Block, pieces: list[Pixels] | Tiles | list[bytes]
    ) -> Iterator[tuple[int, IO[bytes]]]:
        """Yields the files that a chain's pieces complete; long ones wait on the disk."""
        for number, piece in enumerate(pieces, chain.first_tile):
            i, k = self._header.position(chain.coding, number)
            entry = self._header.entries[i]
            if i in self._done or not isinstance(piece, bytes) or not isinstance(entry, FileEntry):
                continue
            stream, there = self._files.setdefault(i, (SpooledTemporaryFile(2 * PIECE_BYTES), set()))  # noqa: SIM115
            stream.seek(k * PIECE_BYTES)
            stream.write(piece)
            there.add(k)
            if len(there) == entry.n_tiles():
                stream.seek(0)
                del self._files[i]
                yield i, stream


def pixels_of(entry: Member, restored: Restored) -> Pixels:
    """Returns the pixels of a member that was restored.

    Raises:
        CorruptArchiveError: If it has none.
    """
    if isinstance(restored, Picture):
        return restored.pixels
    if not isinstance(restored, np.ndarray):
        raise CorruptArchiveError(f"{entry.name!a} is kept as bytes and has no pixels")
    return restored
