"""The list of members, packed.

Ten thousand images at 0.01 bits per dimension leave less than four bytes for the name of each. So the list is packed
as runs: images of one size and mode whose names count up, such as ``0001.png, 0002.png, ...``, cost a few bytes
together.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from nelbo.container.entries import (
    DEEP_MODES,
    MAX_NAMES,
    MODES,
    Entry,
    FileEntry,
    FileKind,
    Member,
    check_entries,
)
from nelbo.container.framing import join_parts, split_some_parts
from nelbo.container.names import MAX_LONG_NAME_BYTES, MAX_NAME_BYTES, name_bytes, name_of
from nelbo.errors import CorruptArchiveError, NelboError, UnsupportedArchiveError

_MAX_DIGITS = 18
_SAME_SIZE = 0x80
_FORMAT = 0x40  # In version 2 a byte with the place of the format follows.
_MAX_FORMATS = 256
_MAX_NUMBER, _MAX_LONG_NUMBER = 5, 7  # Bytes of a number, and of one that is a file's length.
_ALL_MODES = MODES + DEEP_MODES
_NUMBER = re.compile(r"[0-9]+(?=[^0-9]*$)")


def pack_entries(entries: Sequence[Member], formats: Sequence[str] = ()) -> bytes:
    """Returns the list of members as runs: the name of its first member, its length, its code and its size.

    Args:
        entries: The members.
        formats: The names of formats that they may have; version 1 has none.
    """
    runs, previous, size = [], b"", (0, 0)
    for first, count in _runs(entries):
        name, same = name_bytes(first.name), _size(first) == size
        n_shared = _n_shared(previous, name)
        runs += [_varint(n_shared), _varint(len(name) - n_shared), name[n_shared:], _varint(count)]
        code = _ALL_MODES.index(first.mode) if isinstance(first, Entry) else first.kind
        runs.append(bytes([code | (_FORMAT if first.format else 0) | (_SAME_SIZE if same else 0)]))
        runs += [bytes([formats.index(first.format)])] if first.format else []
        runs += [] if same else [_varint(side) for side in _size(first)]
        previous, size = name, _size(first)
    return b"".join(runs)


def unpack_entries(data: bytes, n_images: int, formats: Sequence[str] = (), version: int = 1) -> list[Member]:
    """Returns the list of members, the inverse of :func:`pack_entries`.

    Raises:
        CorruptArchiveError: If the bytes are no such list of so many members.
        UnsupportedArchiveError: If a member is of a kind that this version of nelbo does not know.
    """
    entries: list[Member] = []
    previous, size, at, n_names = b"", (0, 0), 0, 0
    longest = MAX_NAME_BYTES if version == 1 else MAX_LONG_NAME_BYTES
    while len(entries) < n_images:
        n_shared, at = _take_varint(data, at)
        n_own, at = _take_varint(data, at)
        if n_shared > len(previous) or n_shared + n_own > longest or at + n_own > len(data):
            raise CorruptArchiveError("a name in the list of images is longer than the list: the file is damaged")
        previous, at = previous[:n_shared] + data[at : at + n_own], at + n_own
        count, at = _take_varint(data, at)
        code, at = _take_byte(data, at)
        which, at = _take_byte(data, at) if version > 1 and code & _FORMAT else (None, at)
        kind = code & ~_SAME_SIZE if version == 1 else code & ~(_SAME_SIZE | _FORMAT)
        n_sides = _n_sides(kind, version)
        if not code & _SAME_SIZE:
            sides = []
            for _ in range(n_sides):
                side, at = _take_varint(data, at, _MAX_NUMBER if version == 1 else _MAX_LONG_NUMBER)
                sides.append(side)
            size = tuple(sides)
        n_names += count * len(previous)
        if not 1 <= count <= n_images - len(entries) or len(size) != n_sides or (which or 0) >= max(1, len(formats)):
            raise CorruptArchiveError("the list of images has an invalid mode or count: the file is damaged")
        if n_names > MAX_NAMES:
            raise CorruptArchiveError(f"the names of the images claim more than {MAX_NAMES} bytes: the file is damaged")
        form = "" if which is None or not formats else formats[which]
        entries += [_member(name, size, kind, form) for name in _count_up(_decoded(previous, version), count)]
    if at != len(data):
        raise CorruptArchiveError("the list of images has bytes left over: the file is damaged")
    try:
        check_entries(entries, version)
    except NelboError as error:
        raise CorruptArchiveError(f"the list of images is refused: {error}") from None
    return entries


def pack_members(entries: Sequence[Member]) -> bytes:
    """Returns the list of members with the names of their formats, as version 2 holds it."""
    formats = sorted({entry.format for entry in entries} - {""})
    return join_parts([*(name.encode() for name in formats), pack_entries(entries, formats)])


def unpack_members(data: bytes, n_members: int) -> list[Member]:
    """Returns the list of members, the inverse of :func:`pack_members`.

    Raises:
        CorruptArchiveError: If the bytes are no such list of so many members.
        UnsupportedArchiveError: If a member is of a kind that this version of nelbo does not know.
    """
    *formats, runs = split_some_parts(data, _MAX_FORMATS)
    return unpack_entries(runs, n_members, [name.decode("ascii", "replace") for name in formats], version=2)


def _size(entry: Member) -> tuple[int, ...]:
    return (entry.width, entry.height) if isinstance(entry, Entry) else (entry.n_bytes,)


def _n_sides(kind: int, version: int) -> int:
    """Returns how many numbers say the size of a member of a kind.

    Raises:
        CorruptArchiveError: If version 1 has no such kind.
        UnsupportedArchiveError: If a later version must have it.
    """
    if kind < len(MODES if version == 1 else _ALL_MODES):
        return 2
    if version == 1:
        raise CorruptArchiveError("the list of images has an invalid mode or count: the file is damaged")
    if kind not in set(FileKind):
        raise UnsupportedArchiveError(f"a member of the archive is of kind {kind}: upgrade nelbo to read it")
    return 1


def _member(name: str, size: tuple[int, ...], kind: int, form: str) -> Member:
    if kind < len(_ALL_MODES):
        return Entry(name, size[0], size[1], _ALL_MODES[kind], form)
    return FileEntry(name, size[0], FileKind(kind), form)


def _runs(entries: Sequence[Member]) -> Iterator[tuple[Member, int]]:
    """Yields the first image of each run and how many it holds."""
    first, count, expected = entries[0], 0, None
    for entry in entries:
        if count and entry != expected:
            yield first, count
            first, count = entry, 0
        count += 1
        parts = _parts(entry.name)
        expected = replace(entry, name=_counted(parts, 1)) if parts else None
    yield first, count


def _count_up(name: str, count: int) -> Iterator[str]:
    """Yields a name and those after it.

    Raises:
        CorruptArchiveError: If more than one is asked for, and the name has no number.
    """
    parts = _parts(name)
    if parts is None and count > 1:
        raise CorruptArchiveError("a name in the list of images cannot count up: the file is damaged")
    yield from [name] if parts is None else (_counted(parts, i) for i in range(count))


def _parts(name: str) -> tuple[str, str, str] | None:
    """Returns what is before, in and after the last number of a name's stem; None without one of 1 to 18 digits."""
    folder = name.rfind("/") + 1
    dot = name.rfind(".", folder)
    match = _NUMBER.search(name[: dot if dot >= 0 else len(name)], folder)
    if match is None or len(match[0]) > _MAX_DIGITS:
        return None
    return name[: match.start()], match[0], name[match.end() :]


def _counted(parts: tuple[str, str, str], i: int) -> str:
    """Returns the name whose number is higher by i, padded with zeros to the digits that it has."""
    before, number, after = parts
    return f"{before}{str(int(number) + i).zfill(len(number))}{after}"


def _n_shared(a: bytes, b: bytes) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _decoded(name: bytes, version: int) -> str:
    try:
        return name.decode() if version == 1 else name_of(name)
    except UnicodeDecodeError:
        raise CorruptArchiveError("a name in the list of images is not UTF-8: the file is damaged") from None


def _take_byte(data: bytes, at: int) -> tuple[int, int]:
    if at >= len(data):
        raise CorruptArchiveError("the list of images ends early: the file is damaged")
    return data[at], at + 1


def _varint(value: int) -> bytes:
    """Returns a number below 2^49 in LEB128: seven bits a byte, the lowest first, the top bit set but on the last."""
    head = []
    while value >= 0x80:
        head.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*head, value])


def _take_varint(data: bytes, at: int, most: int = _MAX_NUMBER) -> tuple[int, int]:
    """Returns the number at a place and the place after it, the inverse of :func:`_varint`."""
    value = 0
    for i, byte in enumerate(data[at : at + most]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise CorruptArchiveError("a number in the list of images does not end: the file is damaged")
