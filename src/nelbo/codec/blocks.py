"""Chains: tiles to and from the messages that hold them, many chains side by side, one network call for all.

Bits-back coding is last in, first out, and needs bits to begin with. A chain is therefore coded from its last tile to
its first, and begins on a seed: its very last tiles, as JPEG XL, as many as it takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

from nelbo.ans.lanes import Lanes
from nelbo.ans.message import Message, bytes_of, words_of
from nelbo.codec import jpegxl
from nelbo.codec.latent_coder import ChainCoder
from nelbo.container.framing import join_parts, split_parts
from nelbo.container.records import Block, BlockKind
from nelbo.errors import CorruptArchiveError, StackEmptyError
from nelbo.runtime.progress import Advance, ignore

Tiles = UInt8[np.ndarray, "_ _ _ _"]
Tile = UInt8[np.ndarray, "_ _ _"]

_LUCKY_BYTES = 1 << 10


@dataclass
class _Encoding:
    """A chain that is being encoded.

    Attributes:
        tiles: Its tiles.
        seed: JPEG XL files of its last tiles.
        left: How many of its tiles are still to be coded.
        message: Where they go.
        is_given_up: Whether bits-back cannot code it.
    """

    tiles: Tiles
    seed: list[bytes] = field(default_factory=list)
    left: int = 0
    message: Message = field(default_factory=lambda: Message(np.zeros(0, np.uint32), 1 << 32, 1 << 32, 0))
    is_given_up: bool = False

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begins anew on a seed that is one tile longer."""
        n_seed = len(self.seed) + 1
        if n_seed >= len(self.tiles):  # Nothing would be left to code.
            self.give_up()
            return
        self.seed.insert(0, jpegxl.encode(_rows(self.tiles[-n_seed])))
        self.left = len(self.tiles) - n_seed
        self.message = Message.seeded(words_of(join_parts(self.seed)))

    def give_up(self) -> None:
        """Leaves the chain to JPEG XL."""
        self.is_given_up, self.left = True, 0

    def chain(self, first_tile: int) -> Block | None:
        """Returns the finished chain, None if it was given up."""
        if self.is_given_up:
            return None
        message, seed = self.message, join_parts(self.seed)
        return Block(
            BlockKind.BITS_BACK,
            len(self.tiles),
            first_tile,
            tile_hash(self.tiles),
            bytes_of(message.words),
            message.head_q,
            message.head_p,
            message.counter,
            len(self.seed),
            len(seed),
        )


def encode_blocks(
    coder: ChainCoder, chains: Sequence[Tiles], first_tiles: Sequence[int], progress: Advance = ignore
) -> list[Block | None]:
    """Returns tiles as bits-back chains, None for one that is too short for its own seed or cannot be coded.

    Args:
        coder: What codes an image on each lane.
        chains: The tiles of each chain.
        first_tiles: The number of each chain's first tile.
        progress: Called with the number of tiles coded since the last call.
    """
    encodings = [_Encoding(tiles) for tiles in chains]
    while active := [encoding for encoding in encodings if encoding.left]:
        lanes = Lanes([encoding.message for encoding in active])
        coder.encode(lanes, np.stack([encoding.tiles[encoding.left - 1] for encoding in active]))
        for lane, encoding in enumerate(active):
            error = lanes.errors.get(lane)
            if error is None:
                encoding.left -= 1
            elif isinstance(error, StackEmptyError):
                encoding.restart()
            else:
                encoding.give_up()
        progress(len(active))
    return [encoding.chain(first) for encoding, first in zip(encodings, first_tiles, strict=True)]


def decode_blocks(
    coder: ChainCoder, chains: Sequence[Block], shape: tuple[int, int, int], progress: Advance = ignore
) -> list[Tiles | Exception]:
    """Returns the tiles of bits-back chains, or what is wrong with one; the others decode all the same.

    Args:
        coder: What decodes an image on each lane.
        chains: The chains.
        shape: Channels, height and width of a tile.
        progress: Called with the number of tiles decoded since the last call.
    """
    results: list[Tiles | Exception] = []
    messages, decoded = [_message(chain) for chain in chains], [[] for _ in chains]
    errors: dict[int, Exception] = {}
    while active := [i for i, chain in enumerate(chains) if i not in errors and len(decoded[i]) < _n_coded(chain)]:
        lanes = Lanes([messages[i] for i in active])
        for lane, tile in enumerate(coder.decode(lanes)):
            decoded[active[lane]].append(tile)
            lanes.attempt(
                lane, lambda chain=chains[active[lane]], lane=lane: _check_growth(chain, messages[active[lane]])
            )
        errors |= {active[lane]: _explained(chains[active[lane]], error) for lane, error in lanes.errors.items()}
        progress(len(active))
    for i, chain in enumerate(chains):
        try:
            results.append(errors[i] if i in errors else _whole(chain, messages[i], decoded[i], shape))
        except CorruptArchiveError as error:
            results.append(error)
    return results


def tile_hash(tiles: Tiles) -> bytes:
    """Returns the pixel hash of a chain's tiles."""
    return Block.hash_of(np.ascontiguousarray(tile.transpose(1, 2, 0)).tobytes() for tile in tiles)


def _n_coded(chain: Block) -> int:
    return chain.n_tiles - chain.n_seed_tiles


def _message(chain: Block) -> Message:
    return Message(words_of(chain.payload), chain.head_q, chain.head_p, chain.counter)


def _whole(chain: Block, message: Message, decoded: list[Tile], shape: tuple[int, int, int]) -> Tiles:
    """Returns all tiles of a chain whose message is down to its seed.

    Raises:
        CorruptArchiveError: If the seed or the pixels are not what they were.
    """
    seed = bytes_of(message.unseeded())
    if not 0 <= len(seed) - chain.n_seed_bytes < 4 or any(seed[chain.n_seed_bytes :]):
        raise CorruptArchiveError(f"{chain} ends on a seed of another length: the file is damaged")
    parts = split_parts(seed[: chain.n_seed_bytes], chain.n_seed_tiles)
    c, h, w = shape
    rows = [jpegxl.decode(part, (h, w) if c == 1 else (h, w, c), np.dtype(np.uint8)) for part in parts]
    tiles = np.stack([*decoded, *(row.reshape(h, w, c).transpose(2, 0, 1) for row in rows)])
    if tile_hash(tiles) != chain.pixel_hash:
        raise CorruptArchiveError(
            f"{chain} decodes to other pixels than were coded: the file or the model is not the one"
        )
    return tiles


def _check_growth(chain: Block, message: Message) -> None:
    """Checks that a message shrinks while it is decoded, so that no chain takes more memory than its tiles and itself.

    The probability that tiles were coded in -a bits is at most 2^-a, for E_q[p(x, z) / q(z | x)] is p(x).

    Raises:
        CorruptArchiveError: If it is longer than it was, by more than chance ever makes it.
    """
    if 4 * message.n_words > len(chain.payload) + _LUCKY_BYTES:
        raise CorruptArchiveError("its tiles would have been coded in less than no bits")


def _explained(chain: Block, error: Exception) -> CorruptArchiveError:
    return CorruptArchiveError(f"{chain} cannot be decoded ({error}): the file is damaged")


def _rows(tile: Tile) -> UInt8[np.ndarray, "h w *c"]:
    rows = np.ascontiguousarray(tile.transpose(1, 2, 0))
    return rows[..., 0] if rows.shape[2] == 1 else rows
