"""The first bytes of a ``.nelbo`` file: preamble and header, in both versions. docs/format.md, docs/format2.md."""

import struct

from nelbo.ans.tables import PROBABILITY_BITS
from nelbo.container.compression import compress, decompress
from nelbo.container.entries import MAX_IMAGES
from nelbo.container.entry_list import pack_entries, pack_members, unpack_entries, unpack_members
from nelbo.container.framing import (
    U32,
    Readable,
    checked,
    join_parts,
    join_sections,
    read_exactly,
    read_up_to,
    split_parts,
    split_sections,
    unchecked,
)
from nelbo.container.header import MAX_STEPS, Coding, Header
from nelbo.errors import CorruptArchiveError, NelboError, UnsupportedArchiveError

SIGNATURE = b"\x89NBO\r\n\x1a\n"  # After PNG's: a transfer as text changes it.
VERSIONS = (1, 2)
MAX_HEADER_BYTES = 1 << 26
_MAX_LIST_BYTES = 1 << 27  # Of the members of version 2, once they are decompressed.

_PREAMBLE = struct.Struct("<8sHHII")  # Signature, version, 0, bytes of the header, CRC32C of what is before.
_FIXED = struct.Struct("<32sIBBHHdI")  # SHA-256, executor, precision, channels, height, width, kappa, images.
_MODEL = struct.Struct("<32sIBBHHd")  # The same of a coding of version 2, without the images.
_F64 = struct.Struct("<d")


def pack_header(header: Header) -> bytes:
    """Returns the file's first bytes: the preamble, the header, its CRC32C."""
    body = _pack_body(header) if header.version == 1 else _pack_sections(header)
    if len(body) > MAX_HEADER_BYTES:
        raise NelboError(f"the header takes {len(body)} bytes, the limit is {MAX_HEADER_BYTES}: compress fewer images")
    preamble = _PREAMBLE.pack(SIGNATURE, header.version, 0, len(body), 0)[: -U32.size]
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
    if version not in VERSIONS or reserved:
        raise UnsupportedArchiveError(f"the archive has format version {version}.{reserved}: upgrade nelbo to read it")
    if n_bytes > MAX_HEADER_BYTES:
        raise CorruptArchiveError(f"the header claims {n_bytes} bytes, the limit is {MAX_HEADER_BYTES}")
    body = read_exactly(stream, n_bytes + U32.size)
    unpack = _unpack_body if version == 1 else _unpack_sections
    return unpack(unchecked(body, "the header")), preamble + body


# Version 1


def _pack_body(header: Header) -> bytes:
    fixed = _FIXED.pack(
        header.model_sha256,
        header.executor_version,
        PROBABILITY_BITS,
        *header.tile_shape,
        header.kappa,
        len(header.entries),
    )
    parts = [header.model_name.encode(), header.kernel.encode(), _packed_gammas(header), header.plan]
    parts.append(pack_entries(header.entries))
    return fixed + join_parts(parts)


def _unpack_body(body: bytes) -> Header:
    if len(body) < _FIXED.size:
        raise CorruptArchiveError("the header ends early: the file is damaged")
    sha256, executor, precision, channels, height, width, kappa, n_images = _FIXED.unpack_from(body)
    if precision != PROBABILITY_BITS:
        raise UnsupportedArchiveError(f"the archive has {precision}-bit probabilities: upgrade nelbo to read it")
    name, kernel, gammas, plan, entries = split_parts(body[_FIXED.size :], 5)
    if n_images > MAX_IMAGES:
        raise CorruptArchiveError(f"the header claims {n_images} images, the limit is {MAX_IMAGES}")
    try:
        return Header(
            name.decode(),
            sha256,
            executor,
            (channels, height, width),
            kernel.decode("ascii"),
            _unpacked_gammas(gammas),
            kappa,
            plan,
            unpack_entries(entries, n_images),
        )
    except (NelboError, UnicodeDecodeError) as error:
        raise CorruptArchiveError(f"the header is refused: {error}") from None


# Version 2


def _pack_sections(header: Header) -> bytes:
    sections = [("CODR", _pack_coding(header.coding(i))) for i in range(1 + len(header.others))]
    sections.append(("LIST", U32.pack(len(header.entries)) + compress(pack_members(header.entries))))
    if header.times is not None:
        sections.append(("time", compress(struct.pack(f"<{len(header.times)}q", *header.times))))
    return join_sections(sections)


def _unpack_sections(body: bytes) -> Header:
    sections = split_sections(body, ("CODR", "LIST", "time"))
    codings = [_unpack_coding(data) for name, data in sections if name == "CODR"]
    lists = [data for name, data in sections if name == "LIST"]
    if not codings or len(lists) != 1 or len(lists[0]) < U32.size:
        raise CorruptArchiveError("the header has no coding or no list of members: the file is damaged")
    (n_members,) = U32.unpack_from(lists[0])
    if n_members > MAX_IMAGES:
        raise CorruptArchiveError(f"the header claims {n_members} members, the limit is {MAX_IMAGES}")
    entries = unpack_members(decompress(lists[0][U32.size :], _MAX_LIST_BYTES), n_members)
    times = next((_unpack_times(data, n_members) for name, data in sections if name == "time"), None)
    first = codings[0]
    try:
        return Header(
            first.model_name,
            first.model_sha256,
            first.executor_version,
            first.tile_shape,
            first.kernel,
            first.gammas,
            first.kappa,
            first.plan,
            entries,
            prior=first.prior,
            version=2,
            others=tuple(codings[1:]),
            times=times,
        )
    except NelboError as error:
        raise CorruptArchiveError(f"the header is refused: {error}") from None


def _pack_coding(coding: Coding) -> bytes:
    fixed = _MODEL.pack(
        coding.model_sha256, coding.executor_version, PROBABILITY_BITS, *coding.tile_shape, coding.kappa
    )
    sections = [("MODL", fixed + coding.model_name.encode())]
    if coding.gammas:
        sections.append(("PLAN", join_parts([coding.kernel.encode(), _packed_gammas(coding), coding.plan])))
    if coding.prior:
        sections.append(("PRIO", coding.prior))
    return join_sections(sections)


def _unpack_coding(data: bytes) -> Coding:
    found = dict(split_sections(data, ("MODL", "PLAN", "PRIO")))
    model = found.get("MODL", b"")
    if len(model) < _MODEL.size:
        raise CorruptArchiveError("a coding of the header names no model: the file is damaged")
    sha256, executor, precision, channels, height, width, kappa = _MODEL.unpack_from(model)
    if precision != PROBABILITY_BITS:
        raise UnsupportedArchiveError(f"the archive has {precision}-bit probabilities: upgrade nelbo to read it")
    kernel, gammas, plan = split_parts(found["PLAN"], 3) if "PLAN" in found else (b"", b"", b"")
    shape = channels, height, width
    try:
        name = model[_MODEL.size :].decode()
        levels = _unpacked_gammas(gammas)
        prior = found.get("PRIO", b"")
        return Coding(name, sha256, executor, shape, kernel.decode("ascii"), levels, kappa, plan, prior=prior)
    except (NelboError, UnicodeDecodeError) as error:
        raise CorruptArchiveError(f"the header is refused: {error}") from None


def _unpack_times(data: bytes, n_members: int) -> tuple[int, ...]:
    packed = decompress(data, 8 * n_members)
    if len(packed) != 8 * n_members:
        raise CorruptArchiveError("the header has another number of times than of members: the file is damaged")
    return struct.unpack(f"<{n_members}q", packed)


# Both


def _packed_gammas(coding: Coding) -> bytes:
    return b"".join(_F64.pack(gamma) for gamma in coding.gammas)


def _unpacked_gammas(data: bytes) -> tuple[float, ...]:
    if len(data) % _F64.size or len(data) > _F64.size * (MAX_STEPS + 1):
        raise CorruptArchiveError("the header does not hold what it should: the file is damaged")
    return tuple(gamma for (gamma,) in _F64.iter_unpack(data))


def _check_signature(preamble: bytes) -> None:
    if preamble.startswith(SIGNATURE) and len(preamble) == _PREAMBLE.size:
        return
    if len(preamble) < _PREAMBLE.size and SIGNATURE.startswith(preamble[: len(SIGNATURE)]):
        raise CorruptArchiveError("the archive ends within its first bytes: it was cut off, fetch it again")
    text = SIGNATURE.replace(b"\r\n", b"\n"), SIGNATURE.replace(b"\n", b"\r\n"), SIGNATURE.replace(b"\x89", b"\x09")
    if preamble.startswith((*text, SIGNATURE.replace(b"\r\n", b"\r\r\n"), SIGNATURE[:4])):
        raise CorruptArchiveError("the archive was changed by a transfer as text: fetch it again in binary mode")
    raise CorruptArchiveError("this is no .nelbo archive: it does not begin like one")
