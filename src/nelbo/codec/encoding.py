"""Coding images: spans of them side by side, as bits-back chains and as JPEG XL."""

from collections.abc import Sequence

import numpy as np

from nelbo.codec.blocks import decode_blocks, encode_blocks
from nelbo.codec.latent_coder import ChainCoder
from nelbo.codec.layout import Pixels, Span, jpeg_xl_block
from nelbo.codec.tiles import cut
from nelbo.container.header import Header
from nelbo.container.records import Block
from nelbo.errors import NelboError
from nelbo.runtime.progress import Advance, Portion, ignore

Coded = tuple[Block | None, Block]
"""A span as bits-back, if that is possible, and as JPEG XL."""


def encode_images(
    coder: ChainCoder | None,
    header: Header,
    spans: Sequence[Span],
    images: Sequence[Sequence[Pixels]],
    verify: bool = True,
    progress: Advance = ignore,
) -> list[Coded]:
    """Returns spans of images, coded side by side.

    Args:
        coder: What codes an image on each lane; None where no span is coded.
        header: The archive's header.
        spans: The spans.
        images: The images of each.
        verify: Whether to decode what was coded.
        progress: Called with the number of tiles done since the last call.

    Raises:
        NelboError: If a chain does not decode to what was coded.
    """
    coded = [i for i, span in enumerate(spans) if span.is_coded]
    tiles = [np.concatenate([cut(pixels, header.tile_shape) for pixels in images[i]]) for i in coded]
    n_tiles = sum(header.first_tiles[span.end] - header.first_tiles[span.first] for span in spans)
    portion = Portion(n_tiles, (2 if verify else 1) * sum(map(len, tiles)), progress)
    plain = [jpeg_xl_block(header, span, each) for span, each in zip(spans, images, strict=True)]
    chains: list[Block | None] = []
    if coder is not None and coded:
        chains = encode_blocks(coder, tiles, [plain[i].first_tile for i in coded], portion)
        if verify:
            for result in decode_blocks(coder, [each for each in chains if each], header.tile_shape, portion):
                if isinstance(result, Exception):
                    raise NelboError(f"a chain did not decode to what was encoded ({result}): please report this")
    portion.finish()
    of_span = dict(zip(coded, chains, strict=True))
    return [(of_span.get(i), each) for i, each in enumerate(plain)]
