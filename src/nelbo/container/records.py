"""The two records of a ``.nelbo`` file, header and chain, and their bytes. docs/format.md specifies them.

Whatever is wrong with a file ends in one of three errors: it is damaged (:class:`CorruptArchiveError`), from a newer
version (:class:`UnsupportedArchiveError`), or made with another model (:class:`WrongModelError`). Every length is
compared with its limit, and what a stream holds is read piece by piece, so no field can make the reader allocate more
than the file has bytes, apart from what docs/format.md states: the list of images, the plan, a chain's pixels.
"""

import hashlib
import itertools
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import google_crc32c

from nelbo.ans.tables import PROBABILITY_BITS
from nelbo.container.entries import MAX_IMAGES, Entry, check_entries, pack_entries, unpack_entries
from nelbo.container.framing import (
    U32,
    Readable,
    checked,
    join_parts,
    read_exactly,
    read_up_to,
    split_parts,
    unchecked,
)
from nelbo.errors import CorruptArchiveError, NelboError, UnsupportedArchiveError, WrongModelError

SIGNATURE = b"\x89NBO\r\n\x1a\n"  # After PNG's: a transfer as text changes it.
VERSION = 1
MAX_HEADER_BYTES = 1 << 26
MAX_PAYLOAD_BYTES = 1 << 30
MAX_STEPS = 10_000
MAX_TILES = (1 << 32) - 1  # Of a chain.
MAX_CHAIN_PIXELS = 1 << 31  # Of a chain's tiles together: what its few bytes may make a reader allocate.
CHAIN_MAGIC = b"\x89nCh"
PIXEL_HASH_BYTES = 16

_PREAMBLE = struct.Struct("<8sHHII")  # Signature, version, 0, bytes of the header, CRC32C of what is before.
_FIXED = struct.Struct("<32sIBBHHdI")  # SHA-256, executor, precision, channels, height, width, kappa, images.
_CHAIN = struct.Struct("<BxxxIQ16sQQQIIQI")  # The fields of Chain in their order, bytes of the payload, its CRC32C.
_F64 = struct.Struct("<d")
CHAIN_HEAD_BYTES = len(CHAIN_MAGIC) + U32.size + _CHAIN.size


class Kind(IntEnum):
    """What a chain's payload is: the words of a message, or JPEG XL files, one after the other as parts."""

    BITS_BACK = 1
    JPEG_XL = 2


@dataclass(frozen=True)
class Header:
    """What all chains share.

    Attributes:
        model_name: The model's name, for messages.
        model_sha256: The SHA-256 of the frozen model file.
        executor_version: The version of the integer semantics of the network's execution.
        tile_shape: Channels, height and width of the model's images.
        kernel: The name of the reverse kernel.
        gammas: The time schedule, strictly increasing; empty if every chain is JPEG XL.
        kappa: The lattice step over the standard deviation of the step's posterior.
        plan: Integers of the chain's steps that must not be recomputed; the executor version says what they are.
        entries: The images, in order.
    """

    model_name: str
    model_sha256: bytes
    executor_version: int
    tile_shape: tuple[int, int, int]
    kernel: str
    gammas: tuple[float, ...]
    kappa: float
    plan: bytes
    entries: Sequence[Entry]

    def __post_init__(self) -> None:
        check_entries(self.entries)
        if len(self.gammas) > MAX_STEPS + 1:
            raise NelboError(f"{len(self.gammas)} levels: a time schedule has at most {MAX_STEPS + 1} in an archive")
        if not all(map(math.isfinite, self.gammas)) or any(s >= t for s, t in itertools.pairwise(self.gammas)):
            raise NelboError("the gammas of the time schedule do not increase: choose another schedule")
        if not (0 < self.kappa <= 16) or len(self.model_sha256) != 32 or min(self.tile_shape) < 1:
            raise NelboError("kappa, the SHA-256 or the shape of the model is senseless")

    @cached_property
    def first_tiles(self) -> list[int]:
        """The number of tiles before each image, and of all of them."""
        return [0, *itertools.accumulate(entry.n_tiles(self.tile_shape) for entry in self.entries)]


@dataclass(frozen=True)
class Chain:
    """Consecutive tiles, coded on one message; the tiles of all images are numbered through in reading order.

    Attributes:
        kind: What the payload is.
        n_tiles: How many tiles it holds.
        first_tile: The number of the first.
        pixel_hash: BLAKE2b with 16 bytes of the pixels, see docs/format.md.
        head_q: Head Q of the message, 0 for JPEG XL; like the next four.
        head_p: Head P of the message.
        counter: The keystream's counter.
        n_seed_tiles: How many tiles, the chain's last ones, are in the seed.
        n_seed_bytes: The length of the seed, before it was padded to whole words.
        payload: The words of the message, the top of the stack last, or the parts that are JPEG XL files.
    """

    kind: Kind
    n_tiles: int
    first_tile: int
    pixel_hash: bytes
    payload: bytes = field(repr=False)
    head_q: int = 0
    head_p: int = 0
    counter: int = 0
    n_seed_tiles: int = 0
    n_seed_bytes: int = 0

    def __post_init__(self) -> None:
        heads, words = (self.head_q, self.head_p), len(self.payload) % 4 == 0
        if self.kind is Kind.BITS_BACK and not (words and min(heads) >= 1 << 32):
            raise CorruptArchiveError(f"{self} has no heads of a message, or no whole words: the file is damaged")
        if self.kind is Kind.JPEG_XL and any((*heads, self.counter, self.n_seed_tiles, self.n_seed_bytes)):
            raise CorruptArchiveError(f"{self} is JPEG XL, but has the heads of a message: the file is damaged")
        if not (1 <= self.n_tiles <= MAX_TILES and self.n_seed_tiles <= self.n_tiles):
            raise CorruptArchiveError(f"{self} has a senseless number of tiles: the file is damaged")

    @staticmethod
    def hash_of(pixels: Iterable[bytes]) -> bytes:
        """Returns the pixel hash of the bytes of a chain's tiles or images, in order."""
        digest = hashlib.blake2b(digest_size=PIXEL_HASH_BYTES)
        for piece in pixels:
            digest.update(piece)
        return digest.digest()

    @property
    def n_bytes(self) -> int:
        """The bytes that the chain takes in the file."""
        return CHAIN_HEAD_BYTES + len(self.payload)

    def __str__(self) -> str:
        return f"the chain of tiles {self.first_tile} to {self.first_tile + self.n_tiles - 1}"


# Headers


def pack_header(header: Header) -> bytes:
    """Returns the file's first bytes: the preamble, the header, its CRC32C."""
    body = _pack_body(header)
    if len(body) > MAX_HEADER_BYTES:
        raise NelboError(f"the header takes {len(body)} bytes, the limit is {MAX_HEADER_BYTES}: compress fewer images")
    preamble = _PREAMBLE.pack(SIGNATURE, VERSION, 0, len(body), 0)[: -U32.size]
    return checked(preamble) + checked(body)


def read_header(stream: Readable) -> tuple[Header, bytes]:
    """Reads the file's first bytes, the inverse of :func:`pack_header`; returns them as well.

    Raises:
        CorruptArchiveError: If they are damaged, or this is no such file.
        UnsupportedArchiveError: If a newer version wrote it.
    """
    preamble = read_up_to(stream, _PREAMBLE.size)
    _check_signature(preamble)
    unchecked(preamble, "the beginning")
    _, version, reserved, n_bytes, _ = _PREAMBLE.unpack(preamble)
    if (version, reserved) != (VERSION, 0):
        raise UnsupportedArchiveError(f"the archive has format version {version}.{reserved}: upgrade nelbo to read it")
    if n_bytes > MAX_HEADER_BYTES:
        raise CorruptArchiveError(f"the header claims {n_bytes} bytes, the limit is {MAX_HEADER_BYTES}")
    body = read_exactly(stream, n_bytes + U32.size)
    return _unpack_body(unchecked(body, "the header")), preamble + body


def check_model(header: Header, name: str, sha256: bytes, executor_version: int) -> None:
    """Checks that a model is the one that an archive needs.

    Raises:
        WrongModelError: If it is another.
        UnsupportedArchiveError: If it executes another version of the integer semantics.
    """
    if header.model_sha256 != sha256:
        raise WrongModelError(
            f"the archive needs model {ascii(header.model_name)[1:-1]} (SHA-256 {header.model_sha256.hex()[:16]}...), "
            f"but this is {name} ({sha256.hex()[:16]}...): name that model with --model"
        )
    if header.executor_version != executor_version:
        raise UnsupportedArchiveError(
            f"the archive needs version {header.executor_version} of the exact executor, "
            f"this nelbo has {executor_version}: install the nelbo that wrote it"
        )


def _pack_body(header: Header) -> bytes:
    fixed = _FIXED.pack(
        header.model_sha256,
        header.executor_version,
        PROBABILITY_BITS,
        *header.tile_shape,
        header.kappa,
        len(header.entries),
    )
    gammas = b"".join(_F64.pack(gamma) for gamma in header.gammas)
    parts = [header.model_name.encode(), header.kernel.encode(), gammas, header.plan, pack_entries(header.entries)]
    return fixed + join_parts(parts)


def _unpack_body(body: bytes) -> Header:
    if len(body) < _FIXED.size:
        raise CorruptArchiveError("the header ends early: the file is damaged")
    sha256, executor, precision, channels, height, width, kappa, n_images = _FIXED.unpack_from(body)
    if precision != PROBABILITY_BITS:
        raise UnsupportedArchiveError(f"the archive has {precision}-bit probabilities: upgrade nelbo to read it")
    name, kernel, gammas, plan, entries = split_parts(body[_FIXED.size :], 5)
    if len(gammas) % _F64.size or len(gammas) > _F64.size * (MAX_STEPS + 1) or n_images > MAX_IMAGES:
        raise CorruptArchiveError("the header does not hold what it should: the file is damaged")
    try:
        return Header(
            name.decode(),
            sha256,
            executor,
            (channels, height, width),
            kernel.decode("ascii"),
            tuple(gamma for (gamma,) in _F64.iter_unpack(gammas)),
            kappa,
            plan,
            unpack_entries(entries, n_images),
        )
    except (NelboError, UnicodeDecodeError) as error:
        raise CorruptArchiveError(f"the header is refused: {error}") from None


# Chains


def pack_chain(chain: Chain) -> bytes:
    """Returns a chain's bytes: its magic, the CRC32C of its fields, the fields, the payload.

    Raises:
        NelboError: If the payload is longer than readers take.
    """
    if len(chain.payload) > MAX_PAYLOAD_BYTES:
        raise NelboError(
            f"{chain} takes {len(chain.payload)} bytes, the limit is {MAX_PAYLOAD_BYTES}: split its images"
        )
    fields = _CHAIN.pack(
        chain.kind,
        chain.n_tiles,
        chain.first_tile,
        chain.pixel_hash,
        chain.head_q,
        chain.head_p,
        chain.counter,
        chain.n_seed_tiles,
        chain.n_seed_bytes,
        len(chain.payload),
        google_crc32c.value(chain.payload),
    )
    return CHAIN_MAGIC + U32.pack(google_crc32c.value(fields)) + fields + chain.payload


def read_chain(stream: Readable) -> Chain:
    """Reads a chain at the stream's place, the inverse of :func:`pack_chain`.

    Raises:
        CorruptArchiveError: If it is damaged.
    """
    head = read_exactly(stream, CHAIN_HEAD_BYTES)
    (crc,) = U32.unpack_from(head, len(CHAIN_MAGIC))
    fields = head[len(CHAIN_MAGIC) + U32.size :]
    if not head.startswith(CHAIN_MAGIC) or google_crc32c.value(fields) != crc:
        raise CorruptArchiveError("a chain's header is damaged: recover the other chains with `nelbo recover`")
    kind, n_tiles, first, pixel_hash, head_q, head_p, counter, n_seed_tiles, n_seed, n_bytes, crc = _CHAIN.unpack(
        fields
    )
    if kind not in set(Kind):
        raise UnsupportedArchiveError(f"a chain is of kind {kind}: upgrade nelbo to read it")
    if n_bytes > MAX_PAYLOAD_BYTES:
        raise CorruptArchiveError(f"a chain claims {n_bytes} bytes, the limit is {MAX_PAYLOAD_BYTES}")
    payload = read_exactly(stream, n_bytes)
    if google_crc32c.value(payload) != crc:
        raise CorruptArchiveError(
            f"tiles {first} to {first + n_tiles - 1} are damaged: recover the other chains with `nelbo recover`"
        )
    seed = n_seed_tiles, n_seed
    return Chain(Kind(kind), n_tiles, first, pixel_hash, payload, head_q, head_p, counter, *seed)


# The signature


def _check_signature(preamble: bytes) -> None:
    if preamble.startswith(SIGNATURE) and len(preamble) == _PREAMBLE.size:
        return
    if len(preamble) < _PREAMBLE.size and SIGNATURE.startswith(preamble[: len(SIGNATURE)]):
        raise CorruptArchiveError("the archive ends within its first bytes: it was cut off, fetch it again")
    text = SIGNATURE.replace(b"\r\n", b"\n"), SIGNATURE.replace(b"\n", b"\r\n"), SIGNATURE.replace(b"\x89", b"\x09")
    if preamble.startswith((*text, SIGNATURE.replace(b"\r\n", b"\r\r\n"), SIGNATURE[:4])):
        raise CorruptArchiveError("the archive was changed by a transfer as text: fetch it again in binary mode")
    raise CorruptArchiveError("this is no .nelbo archive: it does not begin like one")
