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
from jaxtyping import UInt8
from torch import Tensor

from nelbo.ans.tables import build_tables
from nelbo.codec.assembly import Restored, pixels_of
from nelbo.codec.encoding import Coded, encode_images
from nelbo.codec.estimate import Estimate, estimated
from nelbo.codec.latent_coder import ChainCoder
from nelbo.codec.layout import (
    Choice,
    Pixels,
    Policy,
    Source,
    Span,
    grouped,
    is_smaller,
    settled,
    spans_of,
)
from nelbo.codec.make_plan import KAPPA, embedded_plan
from nelbo.codec.plan_store import StoredPlan, as_named
from nelbo.codec.reading import N_LANES, read_archive
from nelbo.codec.stored_files import files_block, rests_block
from nelbo.codec.tiles import MODES_OF_MODELS
from nelbo.codec.workers import Workers, is_long, workers
from nelbo.container.entries import Entry, FileEntry, Member, needs_version_2
from nelbo.container.framing import Readable, Writable
from nelbo.container.header import Header
from nelbo.container.stream import ArchiveWriter
from nelbo.errors import NelboError
from nelbo.integer.arithmetic import EXECUTOR_VERSION
from nelbo.integer.freeze import model_sha256
from nelbo.integer.frozen_files import frozen_of
from nelbo.integer.frozen_model import FrozenModel
from nelbo.models.interface import DiffusionModel
from nelbo.runtime.progress import Advance, ignore
from nelbo.time_schedule.schedule import TimeSchedule

CHAIN_IMAGES = 256


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
        policy: Whether a chain is kept as bits-back, by the bytes it takes and those of JPEG XL; the smaller is.
        jpeg_xl_alone: Whether images are JPEG XL without trying the model, which needs no schedule.

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
        policy: Policy = is_smaller,
        jpeg_xl_alone: bool = False,
    ) -> None:
        if min(n_chain, n_lanes) < 1:
            raise NelboError(f"a chain has at least 1 image and there is at least 1 lane, got {n_chain} and {n_lanes}")
        self.frozen = frozen_of(model) if frozen is None else frozen
        self._name, self._n_chain, self._n_lanes, self._verify = name, n_chain, n_lanes, verify
        self._policy, self._jpeg_xl_alone = policy, jpeg_xl_alone
        self._tables = build_tables()
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
        images = [pixels_of(entry, restored) for entry, restored in members]
        shapes = {pixels.shape for pixels in images}
        is_mixed = len(shapes) > 1 or images[0].dtype != np.uint8
        if is_mixed or (images[0].ndim == 3 and images[0].shape[2] not in MODES_OF_MODELS):
            raise NelboError(
                "the archive's images differ in size or mode: read them one by one, or decompress to files"
            )
        rows = np.stack([pixels.reshape(*pixels.shape[:2], -1) for pixels in images])
        return torch.from_numpy(np.ascontiguousarray(rows.transpose(0, 3, 1, 2)))

    def write(self, stream: Writable, source: Source, progress: Advance = ignore, n_workers: int = 1) -> None:
        """Writes an archive of images, and of files that a source may have beside them.

        Args:
            stream: Where to; it need not seek.
            source: The images.
            progress: Called with the number of tiles done since the last call.
            n_workers: Processes that code; the archive is the same for any number of them.

        Raises:
            NelboError: If an image cannot be read, or the codec was made to decompress only.
        """
        self.assemble(stream, source, self.chains(source, progress=progress, n_workers=n_workers))

    def chains(
        self, source: Source, first: int = 0, step: int = 1, progress: Advance = ignore, n_workers: int = 1
    ) -> Iterator[list[Choice]]:
        """Yields the chains of an archive as they are coded side by side, ``n_lanes`` or fewer at a time.

        Each comes with JPEG XL of the same tiles, for archives that are smaller so.

        Args:
            source: The images.
            first: The first group of chains to code.
            step: How many groups further the next one is: processes that share the work each take every so many.
            progress: As for :meth:`write`.
            n_workers: As for :meth:`write`.

        Raises:
            NelboError: As :meth:`write`.
        """
        header = self.header(source)
        spans = list(spans_of(header, self._n_chain))
        n_coded = sum(header.first_tiles[span.end] - header.first_tiles[span.first] for span in spans if span.is_coded)
        n_workers = n_workers if is_long(n_coded, len(header.gammas)) else 1
        n_lanes = min(self._n_lanes, math.ceil(len(spans) / (step * n_workers)))  # Few chains are shared as well.
        groups = list(itertools.islice(grouped(spans, n_lanes), first, None, step))
        if n_workers > 1 and self._coder is not None:
            with workers(self._coder, header, min(n_workers, len(groups))) as pool:
                yield from self._shared(pool, header, source, groups, progress)
            return
        for group in groups:
            images = [self._images(source, span) for span in group if not _is_file(header, span)]
            imaged = [span for span in group if not _is_file(header, span)]
            coded = encode_images(self._coder, header, imaged, images, self._verify, progress)
            yield self._choices(header, source, group, coded, progress)

    def assemble(
        self, stream: Writable, source: Source, groups: Iterable[Sequence[Choice]], progress: Advance = ignore
    ) -> None:
        """Writes an archive of chains that :meth:`chains` coded, all of them in order.

        Args:
            stream: As for :meth:`write`.
            source: The images.
            groups: The chains.
            progress: Called with the number of tiles of each chain that is written.

        Raises:
            NelboError: If chains are missing.
        """
        header, records = settled(self.header(source), itertools.chain.from_iterable(groups), self._policy)
        writer = ArchiveWriter(stream, header)
        for group in records:
            for record in group:
                writer.add(record)
            progress(group[-1].n_tiles)
        writer.close()

    def estimate(self, source: Source, n_workers: int = 1) -> Estimate | None:
        """Returns what an archive will take, measured on a few tiles; None where it takes less than a minute."""
        header = self.header(source)
        if self._coder is None:
            return None
        spans = list(spans_of(header, self._n_chain))
        return estimated(self._coder, header, spans, source, n_workers, self._verify)

    def header(self, source: Source) -> Header:
        """Returns the header of an archive of images.

        Raises:
            NelboError: If the codec was made to decompress only.
        """
        if self._stored is None and not self._jpeg_xl_alone:
            raise NelboError("this codec has no schedule, so it can only decompress: give one")
        stored = None if self._jpeg_xl_alone else self._stored
        is_second = needs_version_2(source.entries) or source.times is not None
        return Header(
            self._name,
            bytes.fromhex(self.frozen.fingerprint),
            EXECUTOR_VERSION,
            self.frozen.image_shape,
            stored.kernel if stored else "",
            stored.gammas if stored else (),
            stored.kappa if stored else KAPPA,
            stored.reference if stored else b"",
            source.entries,
            version=2 if is_second else 1,
            times=source.times,
        )

    def read(self, stream: Readable) -> Iterator[tuple[Member, Restored]]:
        """Yields the members of an archive in order: images as rows of pixels, files as streams.

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

    def _shared(
        self, pool: Workers, header: Header, source: Source, groups: Sequence[Sequence[Span]], progress: Advance
    ) -> Iterator[list[Choice]]:
        """Yields the chains of groups that workers code."""
        imaged = [[span for span in group if not _is_file(header, span)] for group in groups]
        items = ((spans, [self._images(source, span) for span in spans], self._verify) for spans in imaged)
        for group, coded in zip(groups, pool.map(_encode, items, progress), strict=True):
            yield self._choices(header, source, group, coded, progress)

    def _images(self, source: Source, span: Span) -> list[Pixels]:
        return [source.pixels(i) for i in range(span.first, span.end)]

    def _choices(
        self, header: Header, source: Source, spans: Sequence[Span], coded: Sequence[Coded], progress: Advance
    ) -> list[Choice]:
        """Returns the chain of each span: the smaller of bits-back and JPEG XL, or files."""
        choices, left = [], iter(coded)
        for span in spans:
            if _is_file(header, span):
                files = files_block(header, source, span)
                choices.append(Choice(files, files))
                progress(files.n_tiles)
            else:
                best, plain = next(left)
                choices.append(Choice.of(best, plain, rests_block(header, source, span), self._policy))
        return choices


def _is_file(header: Header, span: Span) -> bool:
    return isinstance(header.entries[span.first], FileEntry)


def _encode(
    coder: ChainCoder, header: Header, item: tuple[Sequence[Span], Sequence[Sequence[Pixels]], bool], progress: Advance
) -> list[Coded]:
    spans, images, verify = item
    return encode_images(coder, header, spans, images, verify, progress)
