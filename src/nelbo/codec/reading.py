"""Reading archives: a header's decoder, what chains hold, whole archives and damaged ones."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import tee

import numpy as np

from nelbo.ans.tables import build_tables
from nelbo.codec.assembly import Assembly, Content, Picture, Restored
from nelbo.codec.blocks import decode_blocks
from nelbo.codec.latent_coder import ChainCoder
from nelbo.codec.layout import grouped, jpeg_xl_images
from nelbo.codec.plan_store import find_plan
from nelbo.codec.stored_files import file_pieces, rests_of
from nelbo.codec.tiles import MODES_OF_MODELS
from nelbo.codec.workers import Workers, is_long, workers
from nelbo.container.entries import Entry, Member
from nelbo.container.framing import Readable, Seekable
from nelbo.container.header import Coding, Header, check_model
from nelbo.container.records import CONTENT, Block, BlockKind
from nelbo.container.stream import ArchiveReader, recover_blocks, recover_header
from nelbo.container.tiling import members_of
from nelbo.errors import CorruptArchiveError, NelboError, UnsupportedArchiveError, WrongModelError
from nelbo.integer.arithmetic import EXECUTOR_VERSION
from nelbo.integer.frozen_files import find_frozen
from nelbo.integer.frozen_model import FrozenModel
from nelbo.runtime.progress import Advance, Portion, ignore

N_LANES = 16
_SHARED_LANES = 4  # Of each worker: more are hardly faster, and share the chains less evenly.


def read_archive(
    stream: Readable,
    given: FrozenModel | None = None,
    n_lanes: int = N_LANES,
    progress: Advance = ignore,
    n_workers: int = 1,
) -> tuple[Header, Iterator[tuple[Member, Restored]]]:
    """Returns the header of an archive, and its members in order, decoded as they are asked for.

    Args:
        stream: Where from; it need not seek.
        given: The frozen model, where it is not the bundled one or in the cache.
        n_lanes: Chains decoded side by side.
        progress: Called with the number of tiles decoded since the last call.
        n_workers: Processes that decode.

    Raises:
        CorruptArchiveError: If it is damaged, now or while images are read.
        WrongModelError: If its model is not there.
    """
    reader = ArchiveReader(stream)
    contents = contents_of(reader.header, reader.chains(), given, n_lanes, progress, n_workers)
    return reader.header, _closing(_all_members(reader.header, contents))


def recover_archive(
    stream: Seekable, given: FrozenModel | None = None, n_lanes: int = N_LANES, progress: Advance = ignore
) -> tuple[Header, Iterator[tuple[Member, Restored]]]:
    """Returns the header of a damaged archive, and the members of the chains that are whole.

    Raises:
        CorruptArchiveError: If no header is whole.
        WrongModelError: If its model is not there.
    """
    header = recover_header(stream)
    assembly = Assembly(header)
    contents = contents_of(header, recover_blocks(stream, header), given, n_lanes, progress)
    return header, _closing(member for chain, content in contents for member in assembly.add(chain, content))


def _closing(members: Iterable[tuple[Member, Restored]]) -> Iterator[tuple[Member, Restored]]:
    """Yields members; a file's stream is open until the next one is asked for."""
    for entry, restored in members:
        yield entry, restored
        if not isinstance(restored, np.ndarray | Picture):
            restored.close()


def _all_members(header: Header, contents: Iterable[tuple[Block, Content]]) -> Iterator[tuple[Member, Restored]]:
    assembly = Assembly(header)
    for chain, content in contents:
        if isinstance(content, Exception):
            raise content
        for entry, restored in assembly.add(chain, content):
            if isinstance(restored, Picture) and restored.rest is None:
                raise CorruptArchiveError(f"{entry.name!a} lacks what it has beside its pixels: the file is damaged")
            yield entry, restored


def contents_of(
    header: Header,
    chains: Iterable[Block],
    given: FrozenModel | None = None,
    n_lanes: int = N_LANES,
    progress: Advance = ignore,
    n_workers: int = 1,
) -> Iterator[tuple[Block, Content]]:
    """Yields each chain with what it holds.

    Raises:
        NelboError: If there is no lane.
    """
    if n_lanes < 1:
        raise NelboError(f"archives are decoded on 1 lane or more, got {n_lanes}")
    if n_workers > 1 and not header.others and is_long(header.first_tiles[-1], len(header.gammas)):
        with workers(coder_of(header, given), header, n_workers) as pool:
            yield from _shared(pool, header, chains, min(n_lanes, _SHARED_LANES), progress)
        return
    coders: dict[int, ChainCoder] = {}
    for group in grouped(chains, n_lanes):
        portion_tiles = sum(chain.n_tiles for chain in group if chain.kind in CONTENT)
        coded = [chain for chain in group if chain.kind is BlockKind.BITS_BACK]
        portion = Portion(portion_tiles, sum(chain.n_tiles for chain in coded), progress)
        decoded: dict[int, Content] = {}
        for coding in sorted({chain.coding for chain in coded}):
            if coding not in coders:
                coders[coding] = coder_of(header.coding(coding), given)
            of_coding = [chain for chain in coded if chain.coding == coding]
            shape = header.coding(coding).tile_shape
            decoded |= dict(
                zip(map(id, of_coding), decode_blocks(coders[coding], of_coding, shape, portion), strict=True)
            )
        for chain in group:
            content = decoded[id(chain)] if chain.kind is BlockKind.BITS_BACK else _plain_content(chain, header)
            yield chain, _misfit(chain, header) or content
        portion.finish()


def _shared(
    pool: Workers, header: Header, chains: Iterable[Block], n_lanes: int, progress: Advance
) -> Iterator[tuple[Block, Content]]:
    """Yields each chain with what it holds, decoded by workers."""
    groups, sent = tee(grouped(chains, n_lanes))
    for group, contents in zip(groups, pool.map(_decode, sent, progress), strict=True):
        yield from zip(group, contents, strict=True)


def _decode(coder: ChainCoder, header: Header, chains: Sequence[Block], progress: Advance) -> list[Content]:
    coded = [chain for chain in chains if chain.kind is BlockKind.BITS_BACK]
    n_tiles = sum(chain.n_tiles for chain in chains if chain.kind in CONTENT)
    portion = Portion(n_tiles, sum(chain.n_tiles for chain in coded), progress)
    decoded = iter(decode_blocks(coder, coded, header.tile_shape, portion))
    contents = [next(decoded) if c.kind is BlockKind.BITS_BACK else _plain_content(c, header) for c in chains]
    contents = [_misfit(chain, header) or content for chain, content in zip(chains, contents, strict=True)]
    portion.finish()
    return contents


def coder_of(header: Coding, given: FrozenModel | None = None) -> ChainCoder:
    """Returns what decodes an archive's chains.

    Raises:
        CorruptArchiveError: If the header does not suit its model.
        WrongModelError: If its model is not there.
    """
    if header.prior:
        raise UnsupportedArchiveError("the archive begins its chains on a fitted Gaussian: upgrade nelbo to read it")
    frozen = _frozen_for(header, given)
    check_model(header, "the one given", bytes.fromhex(frozen.fingerprint), EXECUTOR_VERSION)
    if header.tile_shape != frozen.image_shape:
        raise CorruptArchiveError("the archive's tiles have another shape than its model's images: the file is damaged")
    return ChainCoder(frozen, find_plan(header.plan, header.gammas, frozen), header.gammas, build_tables())


def _frozen_for(header: Coding, given: FrozenModel | None) -> FrozenModel:
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


def _misfit(chain: Block, header: Header) -> CorruptArchiveError | None:
    """Returns what is wrong with a bits-back chain whose images have other channels than its tiles."""
    if chain.kind is not BlockKind.BITS_BACK:
        return None
    n_channels = header.coding(chain.coding).tile_shape[0]
    wanted = MODES_OF_MODELS.get(n_channels)
    for entry in members_of(chain, header):
        if isinstance(entry, Entry) and entry.mode != wanted:
            return CorruptArchiveError(
                f"{entry.name!a} has mode {entry.mode}, but its tiles have {n_channels} channels: the file is damaged"
            )
    return None


def _plain_content(chain: Block, header: Header) -> Content:
    """Returns what a chain holds that needs no network."""
    try:
        if chain.kind is BlockKind.JPEG_XL:
            return jpeg_xl_images(chain, header)
        if chain.kind is BlockKind.FILES:
            return file_pieces(chain, header)
        return rests_of(chain) if chain.kind is BlockKind.RESTS else []
    except (CorruptArchiveError, UnsupportedArchiveError) as error:
        return error
