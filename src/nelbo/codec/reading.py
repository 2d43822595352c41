"""Reading archives: a header's decoder, what chains hold, images from tiles, whole archives and damaged ones."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import UInt8

from nelbo.ans.tables import Tables, build_tables
from nelbo.codec.blocks import decode_chains
from nelbo.codec.latent_coder import ChainCoder
from nelbo.codec.layout import Pixels, grouped, jpeg_xl_images
from nelbo.codec.plan_store import find_plan
from nelbo.codec.tiles import joined
from nelbo.container.entries import Entry
from nelbo.container.framing import Readable, Seekable
from nelbo.container.records import Chain, Header, Kind, check_model
from nelbo.container.stream import ArchiveReader, recover_chains, recover_header
from nelbo.errors import CorruptArchiveError, NelboError, WrongModelError
from nelbo.integer.arithmetic import EXECUTOR_VERSION
from nelbo.integer.frozen_files import find_frozen
from nelbo.integer.frozen_model import FrozenModel
from nelbo.runtime.progress import Advance, Portion, ignore

TABLES_SHA256 = "12dce892bab45b11d1ccd650c64b7ce298bed155784d7283fd1f12674f2bca68"
N_LANES = 16

Tiles = UInt8[np.ndarray, "_ _ _ _"]
Content = list[Pixels] | Tiles | Exception
"""What a chain holds: whole images if it is JPEG XL, tiles if not, or the error that it ended in."""


def read_archive(
    stream: Readable, given: FrozenModel | None = None, n_lanes: int = N_LANES, progress: Advance = ignore
) -> tuple[Header, Iterator[tuple[Entry, Pixels]]]:
    """Returns the header of an archive, and its images in order, decoded as they are asked for.

    Args:
        stream: Where from; it need not seek.
        given: The frozen model, where it is not the bundled one or in the cache.
        n_lanes: Chains decoded side by side.
        progress: Called with the number of images decoded since the last call.

    Raises:
        CorruptArchiveError: If it is damaged, now or while images are read.
        WrongModelError: If its model is not there.
    """
    reader = ArchiveReader(stream)
    contents = contents_of(reader.header, reader.chains(), given, n_lanes, progress)
    return reader.header, images_of(reader.header, (_raised(content) for _, content in contents))


def recover_archive(
    stream: Seekable, given: FrozenModel | None = None, n_lanes: int = N_LANES, progress: Advance = ignore
) -> tuple[Header, Iterator[tuple[Entry, Pixels]]]:
    """Returns the header of a damaged archive, and the images of the chains that are whole.

    Raises:
        CorruptArchiveError: If no header is whole.
        WrongModelError: If its model is not there.
    """
    header = recover_header(stream)
    contents = contents_of(header, recover_chains(stream, header), given, n_lanes, progress)
    return header, _recovered(header, contents)


def contents_of(
    header: Header,
    chains: Iterable[Chain],
    given: FrozenModel | None = None,
    n_lanes: int = N_LANES,
    progress: Advance = ignore,
) -> Iterator[tuple[Chain, Content]]:
    """Yields each chain with what it holds.

    Raises:
        NelboError: If there is no lane.
    """
    if n_lanes < 1:
        raise NelboError(f"archives are decoded on 1 lane or more, got {n_lanes}")
    coder = None
    for group in grouped(chains, n_lanes):
        coded = [chain for chain in group if chain.kind is Kind.BITS_BACK]
        if coded and coder is None:
            coder = coder_of(header, given)
        portion = Portion(sum(_n_images(chain, header) for chain in group), sum(c.n_tiles for c in coded), progress)
        decoded = iter(decode_chains(coder, coded, header.tile_shape, portion) if coder is not None else [])
        for chain in group:
            yield chain, next(decoded) if chain.kind is Kind.BITS_BACK else _plain_images(chain, header)
        portion.finish()


def _n_images(chain: Chain, header: Header) -> int:
    """Returns how many images end in a chain."""
    first, end = chain.first_tile, chain.first_tile + chain.n_tiles
    return bisect_right(header.first_tiles, end) - bisect_right(header.first_tiles, first)


def coder_of(header: Header, given: FrozenModel | None = None) -> ChainCoder:
    """Returns what decodes an archive's chains.

    Raises:
        CorruptArchiveError: If the header does not suit its model.
        WrongModelError: If its model is not there.
    """
    frozen = _frozen_for(header, given)
    check_model(header, "the one given", bytes.fromhex(frozen.fingerprint), EXECUTOR_VERSION)
    if header.tile_shape != frozen.image_shape:
        raise CorruptArchiveError("the archive's tiles have another shape than its model's images: the file is damaged")
    return ChainCoder(frozen, find_plan(header.plan, header.gammas, frozen), header.gammas, standard_tables())


def _frozen_for(header: Header, given: FrozenModel | None) -> FrozenModel:
    """Returns the frozen model that an archive was written with, the given one if it is that."""
    wanted = header.model_sha256.hex()
    if given is not None and given.fingerprint == wanted:
        return given
    if (found := find_frozen(wanted)) is not None:
        return found
    other = "" if given is None else f", not {given.fingerprint[:16]}..."
    raise WrongModelError(
        f"the archive needs model {ascii(header.model_name)[1:-1]}, frozen, with SHA-256 {wanted[:16]}...{other}: get "
        "the file that it was frozen to from where the archive was made, and name it with --model"
    )


def images_of(header: Header, parts: Iterable[list[Pixels] | Tiles]) -> Iterator[tuple[Entry, Pixels]]:
    """Yields images from what all chains of an archive hold, in order: tiles, or whole images in a list."""
    i, waiting = 0, []
    for part in parts:
        if isinstance(part, list):
            yield from zip(header.entries[i : i + len(part)], part, strict=True)
            i += len(part)
            continue
        waiting += list(part)
        while waiting and len(waiting) >= (n_tiles := header.entries[i].n_tiles(header.tile_shape)):
            yield header.entries[i], joined(np.stack(waiting[:n_tiles]), header.entries[i])
            i, waiting = i + 1, waiting[n_tiles:]


def standard_tables() -> Tables:
    """Returns the coder's tables, checked against those of the format.

    Raises:
        NelboError: If this machine's mathematical library rounds one of them differently.
    """
    tables = build_tables()
    if tables.digest() != TABLES_SHA256:
        raise NelboError("this machine's mathematical library computes other tables than the format has")
    return tables


def _recovered(header: Header, contents: Iterable[tuple[Chain, Content]]) -> Iterator[tuple[Entry, Pixels]]:
    """Yields the images whose every tile is in a whole chain, each once, though a damaged file may repeat a chain.

    Images may go over from one chain to the next.
    """
    tiles: dict[int, UInt8[np.ndarray, "c h w"]] = {}
    done: set[int] = set()
    for chain, content in contents:
        if isinstance(content, Exception):
            continue
        if isinstance(content, list):
            whole = enumerate(content, bisect_left(header.first_tiles, chain.first_tile))
        else:
            tiles |= dict(enumerate(content, chain.first_tile))
            whole = _completed(header, chain, tiles)
        for i, pixels in whole:
            if i not in done:
                yield header.entries[i], pixels
            done.add(i)


def _completed(
    header: Header, chain: Chain, tiles: dict[int, UInt8[np.ndarray, "c h w"]]
) -> Iterator[tuple[int, Pixels]]:
    """Yields the images that a chain's tiles complete, and takes their tiles out."""
    last = bisect_left(header.first_tiles, chain.first_tile + chain.n_tiles)
    for i in range(bisect_right(header.first_tiles, chain.first_tile) - 1, last):
        wanted = range(header.first_tiles[i], header.first_tiles[i + 1])
        if all(tile in tiles for tile in wanted):
            yield i, joined(np.stack([tiles.pop(tile) for tile in wanted]), header.entries[i])


def _raised(content: Content) -> list[Pixels] | Tiles:
    if isinstance(content, Exception):
        raise content
    return content


def _plain_images(chain: Chain, header: Header) -> list[Pixels] | Exception:
    try:
        return jpeg_xl_images(chain, header)
    except CorruptArchiveError as error:
        return error
