"""What compressing will take, measured on a few tiles before a long run."""

import time
from dataclasses import dataclass

import numpy as np

from nelbo.codec.blocks import encode_blocks
from nelbo.codec.latent_coder import ChainCoder
from nelbo.codec.layout import Source, Span
from nelbo.codec.tiles import cut
from nelbo.container.header import Header

_N_TILES = 16
_MANY_CALLS = 20_000  # Network calls that take about a minute of one core.


@dataclass(frozen=True)
class Estimate:
    """What compressing will take.

    Attributes:
        bits_per_dimension: Of the images that the model codes.
        n_bytes: Of these images together.
        seconds: With the workers there are.
        n_tiles: How many tiles were measured.
    """

    bits_per_dimension: float
    n_bytes: int
    seconds: float
    n_tiles: int

    def __str__(self) -> str:
        minutes = f"{self.seconds / 60:.0f} minutes" if self.seconds > 90 else f"{self.seconds:.0f} seconds"
        size = f"{self.n_bytes / 1e6:.1f} MB, {self.bits_per_dimension:.2f} bits per dimension"
        return f"about {minutes} and {size} at most, measured on {self.n_tiles} tiles"


def estimated(
    coder: ChainCoder, header: Header, spans: list[Span], source: Source, n_workers: int, verify: bool
) -> Estimate | None:
    """Returns what the coded images of an archive will take, None where that is not worth measuring."""
    coded = [i for span in spans if span.is_coded for i in range(span.first, span.end)]
    n_tiles = sum(header.first_tiles[i + 1] - header.first_tiles[i] for i in coded)
    if n_tiles * len(header.gammas) < _MANY_CALLS:
        return None
    chosen = [coded[k * len(coded) // _N_TILES] for k in range(min(_N_TILES, len(coded)))]
    found = [cut(source.pixels(i), header.tile_shape) for i in dict.fromkeys(chosen)]
    tiles = np.concatenate([each[len(each) // 2 :][:_N_TILES] for each in found])
    tiles = np.resize(tiles, (_N_TILES, *header.tile_shape))
    start = time.perf_counter()
    chains = encode_blocks(coder, [tiles], [0])
    seconds = (time.perf_counter() - start) / len(tiles)
    chain = chains[0]
    if chain is None:
        return None
    n_coded = chain.n_tiles - chain.n_seed_tiles
    n_bytes = (len(chain.payload) - chain.n_seed_bytes) / n_coded
    bpd = 8 * n_bytes / float(np.prod(header.tile_shape))
    total = seconds * n_tiles * (2 if verify else 1) / n_workers
    return Estimate(bpd, round(n_bytes * n_tiles), total, len(tiles))
