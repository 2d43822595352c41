"""Archives of images: ``Codec`` compresses and decompresses, in memory or from one stream to another.

Images whose channels are the model's become chains of tiles; of each chain the smaller of bits-back and JPEG XL is
kept. Other images are JPEG XL. Chains hold whole images; as many as ``n_lanes`` are coded side by side, and no more
are in memory.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from nelbo.codec.blocks import decode_chains, encode_chains
from nelbo.codec.latent_coder import ChainCoder
from nelbo.codec.layout import Choice, Source, Span, grouped, jpeg_xl_chain, settled, spans_of
from nelbo.codec.make_plan import embedded_plan
from nelbo.codec.plan_store import StoredPlan, as_named
from nelbo.codec.reading import N_LANES, read_archive, standard_tables
from nelbo.codec.tiles import MODES_OF_MODELS, cut
from nelbo.container.entries import Entry
from nelbo.container.framing import Readable, Writable
from nelbo.container.records import Header
from nelbo.container.stream import ArchiveWriter
from nelbo.errors import NelboError
from nelbo.integer.arithmetic import EXECUTOR_VERSION
from nelbo.integer.freeze import model_sha256
from nelbo.integer.frozen_files import frozen_of
from nelbo.integer.frozen_model import FrozenModel
from nelbo.models.interface import DiffusionModel
from nelbo.runtime.progress import Advance, Portion, ignore
from nelbo.time_schedule.schedule import TimeSchedule

CHAIN_IMAGES = 256

Pixels = Shaped[np.ndarray, "_ _ ..."]


class Codec:
    """Compresses images with a model, and decompresses them bit for bit, on this machine or another.

    Args:
        model: The trained model; None to decompress only, or to use a plan that comes with the frozen model.
        schedule: The chain of network calls, a schedule or a plan that comes with the frozen model; None to
            decompress only.
        frozen: The model in integers; by default ``model`` is frozen now, once for all codecs on this machine.
        name: What archives call the model.
        n_chain: Images a chain: more make a smaller file, fewer lose less to one bad byte and are faster.
        n_lanes: Chains coded side by side.
        verify: Whether to decode each chain after encoding it.

    Raises:
        NelboError: If the model cannot be frozen, the frozen one is of another model, or the schedule does not suit.

    Example:
        >>> import nelbo
        >>> codec = nelbo.Codec(nelbo.load("cifar10-small"), schedule)  # doctest: +SKIP
        >>> bool((codec.decompress(codec.compress(images)) == images).all())  # doctest: +SKIP
        True
    """

    def __init__(
        self,
        model: DiffusionModel | None,
        schedule: TimeSchedule | StoredPlan | None = None,
        frozen: FrozenModel | None = None,
        name: str = "model",
        n_chain: int = CHAIN_IMAGES,
        n_lanes: int = N_LANES,
        verify: bool = True,
    ) -> None:
        if min(n_chain, n_lanes) < 1:
            raise NelboError(f"a chain has at least 1 image and there is at least 1 lane, got {n_chain} and {n_lanes}")
        self.frozen = frozen_of(model) if frozen is None else frozen
        self._name, self._n_chain, self._n_lanes, self._verify = name, n_chain, n_lanes, verify
        self._tables = standard_tables()
        self._stored = self._stored_plan(model, schedule)
        self._coder = None
        if self._stored is not None:
            self._coder = ChainCoder(self.frozen, self._stored.plan, self._stored.gammas, self._tables)

    def compress(self, images: UInt8[Tensor, "n c h w"]) -> bytes:
        """Returns an archive of 8-bit images, of the model's shape or any other size.

        Raises:
            NelboError: If they are no 8-bit tensor, there are none, or they have neither one channel nor three.
        """
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
            found = f"{images.dtype} of shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images)
            raise NelboError(
                f"images are a uint8 tensor (n, c, h, w), of a data set images.read(range(n)); got {found}"
            )
        if len(images) == 0 or images.shape[1] not in MODES_OF_MODELS:
            raise NelboError(f"the codec takes one or more images of 1 or 3 channels, got shape {tuple(images.shape)}")
        c, h, w = images.shape[1:]
        entries = [Entry(f"{i:05d}.png", w, h, MODES_OF_MODELS[c]) for i in range(len(images))]
        rows = images.cpu().permute(0, 2, 3, 1).contiguous().numpy()
        stream = BytesIO()
        self.write(stream, Source(entries, lambda i: rows[i, ..., 0] if c == 1 else rows[i]))
        return stream.getvalue()

    def decompress(self, data: bytes) -> UInt8[Tensor, "n c h w"]:
        """Returns the images of an archive, the inverse of :meth:`compress`.

        Raises:
            CorruptArchiveError: If it is damaged.
            WrongModelError: If another model wrote it; the message says which.
            NelboError: If its images differ in size or mode: read them one by one with :meth:`read`.
        """
        members = list(self.read(BytesIO(data)))
        shapes = {(entry.width, entry.height, entry.mode) for entry, _ in members}
        if len(shapes) > 1 or members[0][0].mode not in MODES_OF_MODELS.values():
            raise NelboError(
                "the archive's images differ in size or mode: read them one by one, or decompress to files"
            )
        rows = np.stack([pixels.reshape(*pixels.shape[:2], -1) for _, pixels in members])
        return torch.from_numpy(np.ascontiguousarray(rows.transpose(0, 3, 1, 2)))

    def write(self, stream: Writable, source: Source, progress: Advance = ignore) -> None:
        """Writes an archive of images.

        Args:
            stream: Where to; it need not seek.
            source: The images.
            progress: Called with the number of images done since the last call.

        Raises:
            NelboError: If an image cannot be read, or the codec was made to decompress only.
        """
        self.assemble(stream, source, self.chains(source, progress=progress))

    def chains(
        self, source: Source, first: int = 0, step: int = 1, progress: Advance = ignore
    ) -> Iterator[list[Choice]]:
        """Yields the chains of an archive as they are coded side by side, ``n_lanes`` or fewer at a time.

        Each comes with JPEG XL of the same tiles, for archives that are smaller so.

        Args:
            source: The images.
            first: The first group of chains to code.
            step: How many groups further the next one is: processes that share the work each take every so many.
            progress: As for :meth:`write`.

        Raises:
            NelboError: As :meth:`write`.
        """
        header = self.header(source)
        assert self._coder is not None, "a codec with a header has a coder"
        spans = list(spans_of(header, self._n_chain))
        n_lanes = min(self._n_lanes, math.ceil(len(spans) / step))  # Few chains are shared as well.
        for group in itertools.islice(grouped(spans, n_lanes), first, None, step):
            yield self._encode(self._coder, header, source, group, progress)

    def assemble(
        self, stream: Writable, source: Source, groups: Iterable[Sequence[Choice]], progress: Advance = ignore
    ) -> None:
        """Writes an archive of chains that :meth:`chains` coded, all of them in order.

        Args:
            stream: As for :meth:`write`.
            source: The images.
            groups: The chains.
            progress: Called with the number of images of each chain that is written.

        Raises:
            NelboError: If chains are missing.
        """
        whole = self.header(source)
        header, chains = settled(whole, itertools.chain.from_iterable(groups))
        writer = ArchiveWriter(stream, header)
        for chain, span in zip(chains, spans_of(whole, self._n_chain), strict=False):
            writer.add(chain)
            progress(span.end - span.first)
        writer.close()

    def header(self, source: Source) -> Header:
        """Returns the header of an archive of images.

        Raises:
            NelboError: If the codec was made to decompress only.
        """
        stored = self._stored
        if stored is None:
            raise NelboError("this codec has no schedule, so it can only decompress: give one")
        return Header(
            self._name,
            bytes.fromhex(self.frozen.fingerprint),
            EXECUTOR_VERSION,
            self.frozen.image_shape,
            stored.kernel,
            stored.gammas,
            stored.kappa,
            stored.reference,
            source.entries,
        )

    def read(self, stream: Readable) -> Iterator[tuple[Entry, Pixels]]:
        """Yields the images of an archive in order, as rows of pixels.

        Raises:
            CorruptArchiveError: If it is damaged.
            WrongModelError: If another model wrote it.
        """
        yield from read_archive(stream, self.frozen, self._n_lanes)[1]

    # Encoding

    def _stored_plan(
        self, model: DiffusionModel | None, schedule: TimeSchedule | StoredPlan | None
    ) -> StoredPlan | None:
        if schedule is None or isinstance(schedule, StoredPlan):
            return schedule
        if model is None:
            raise NelboError("a codec takes a time schedule together with the model that it is for")
        schedule.check_model(model)
        if self.frozen.header.model_sha256 != model_sha256(model):
            raise NelboError("the frozen model was made from another model: freeze this one with nelbo freeze")
        return as_named(embedded_plan(model, schedule), self.frozen)

    def _encode(
        self, coder: ChainCoder, header: Header, source: Source, spans: Sequence[Span], progress: Advance
    ) -> list[Choice]:
        """Returns the chains of some spans of images, each the smaller of bits-back and JPEG XL."""
        images = [[source.pixels(i) for i in range(span.first, span.end)] for span in spans]
        plain = [jpeg_xl_chain(header, span, each) for span, each in zip(spans, images, strict=True)]
        coded = [i for i, span in enumerate(spans) if span.is_coded]
        tiles = [np.concatenate([cut(pixels, header.tile_shape) for pixels in images[i]]) for i in coded]
        n_parts = (2 if self._verify else 1) * sum(map(len, tiles))
        portion = Portion(sum(span.end - span.first for span in spans), n_parts, progress)
        chains = encode_chains(coder, tiles, [plain[i].first_tile for i in coded], portion)
        of_span = dict(zip(coded, chains, strict=True))
        choices = [Choice.of(of_span.get(i), each) for i, each in enumerate(plain)]
        if self._verify:
            kept = [choice.best for choice in choices if choice.best is not choice.plain]
            for result in decode_chains(coder, kept, header.tile_shape, portion):
                if isinstance(result, Exception):
                    raise NelboError(f"a chain did not decode to what was encoded ({result}): please report this")
        portion.finish()
        return choices
