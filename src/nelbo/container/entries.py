"""The images of an archive: names that stay inside the output folder, sizes and modes, and how they are packed.

Ten thousand images at 0.01 bits per dimension leave less than four bytes for the name of each. So the list is packed
as runs: images of one size and mode whose names count up, such as ``0001.png, 0002.png, ...``, cost a few bytes
together.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from nelbo.errors import CorruptArchiveError, NelboError

MODES = ("L", "RGB", "LA", "RGBA", "I;16")  # Pillow's names; their places are the codes in the file.
MAX_IMAGES = 1 << 18
MAX_NAME_BYTES = 1024
MAX_NAMES = 1 << 26  # Bytes of all names together.
MAX_SIDE = 1 << 20
MAX_PIXELS = 1 << 30
_MAX_DIGITS = 18
_SAME_SIZE = 0x80
_DEVICES = {"con", "prn", "aux", "nul", "clock$", "conin$", "conout$"} | {
    device + digit for device in ("com", "lpt") for digit in "0123456789¹²³"
}
_NUMBER = re.compile(r"[0-9]+(?=[^0-9]*$)")


@dataclass(frozen=True, slots=True)
class Entry:
    """One image: its path inside the archive, its size in pixels, its Pillow mode."""

    name: str
    width: int
    height: int
    mode: str

    def n_tiles(self, tile_shape: tuple[int, int, int]) -> int:
        """Returns how many tiles of shape (C, H, W) cover the image, in rows of them."""
        return -(-self.height // tile_shape[1]) * -(-self.width // tile_shape[2])


def safe_member_path(name: str) -> PurePosixPath:
    """Returns the path of a member below the output folder, the same on every system.

    Raises:
        NelboError: If the name is absolute, climbs out with ``..``, names a drive or a device of Windows, or holds
            a backslash or a character that is not for print.
    """
    _check_name(name, set())
    return PurePosixPath(name)


def check_entries(entries: Sequence[Entry]) -> None:
    """Checks names, sizes and modes, that no name occurs twice, and that none is also a folder of another.

    Raises:
        NelboError: If one of these does not hold.
    """
    if not 1 <= len(entries) <= MAX_IMAGES:
        raise NelboError(f"{len(entries)} images: an archive holds 1 to {MAX_IMAGES}")
    names, folders = {entry.name for entry in entries}, set[str]()
    if len(names) < len(entries):
        raise NelboError("two images of an archive have the same name: rename one")
    if sum(len(name.encode(errors="surrogatepass")) for name in names) > MAX_NAMES:
        raise NelboError(f"the names of an archive's images take more than {MAX_NAMES} bytes: shorten them")
    for entry in entries:
        _check_name(entry.name, folders)
        sides = entry.width, entry.height
        if not (min(sides) >= 1 and max(sides) <= MAX_SIDE and entry.width * entry.height <= MAX_PIXELS):
            raise NelboError(f"{entry.name!a} has {entry.width} x {entry.height} pixels: the limit is 2^30")
        if entry.mode not in MODES:
            raise NelboError(f"{entry.name!a} has mode {entry.mode!r}: an archive holds {', '.join(MODES)}")
    if clash := names & folders:
        raise NelboError(f"{min(clash)!a} is an image of an archive and the folder of another: rename one")


def pack_entries(entries: Sequence[Entry]) -> bytes:
    """Returns the list of images as runs, each by the name of its first image, its length, its size and its mode."""
    runs, previous, size = [], b"", (0, 0)
    for first, count in _runs(entries):
        name, same = first.name.encode(), (first.width, first.height) == size
        n_shared = _n_shared(previous, name)
        runs += [_varint(n_shared), _varint(len(name) - n_shared), name[n_shared:], _varint(count)]
        runs.append(bytes([MODES.index(first.mode) | (_SAME_SIZE if same else 0)]))
        runs += [] if same else [_varint(first.width), _varint(first.height)]
        previous, size = name, (first.width, first.height)
    return b"".join(runs)


def unpack_entries(data: bytes, n_images: int) -> list[Entry]:
    """Returns the list of images, the inverse of :func:`pack_entries`.

    Raises:
        CorruptArchiveError: If the bytes are no such list of so many images.
    """
    entries, previous, size, at, n_names = [], b"", (0, 0), 0, 0
    while len(entries) < n_images:
        n_shared, at = _take_varint(data, at)
        n_own, at = _take_varint(data, at)
        if n_shared > len(previous) or n_shared + n_own > MAX_NAME_BYTES or at + n_own > len(data):
            raise CorruptArchiveError("a name in the list of images is longer than the list: the file is damaged")
        previous, at = previous[:n_shared] + data[at : at + n_own], at + n_own
        count, at = _take_varint(data, at)
        code, at = _take_byte(data, at)
        if not code & _SAME_SIZE:
            width, at = _take_varint(data, at)
            height, at = _take_varint(data, at)
            size = width, height
        code &= ~_SAME_SIZE
        if code >= len(MODES) or not 1 <= count <= n_images - len(entries):
            raise CorruptArchiveError("the list of images has a senseless mode or count: the file is damaged")
        n_names += count * len(previous)
        if n_names > MAX_NAMES:
            raise CorruptArchiveError(f"the names of the images claim more than {MAX_NAMES} bytes: the file is damaged")
        entries += [Entry(name, *size, MODES[code]) for name in _count_up(_decoded(previous), count)]
    if at != len(data):
        raise CorruptArchiveError("the list of images has bytes left over: the file is damaged")
    try:
        check_entries(entries)
    except NelboError as error:
        raise CorruptArchiveError(f"the list of images is refused: {error}") from None
    return entries


def _check_name(name: str, folders: set[str]) -> None:
    """Checks a name from its last part up to the first folder that is among those found safe, and adds its own.

    So a list whose every name has hundreds of folders takes no longer than its names.

    Raises:
        NelboError: If the name is not safe.
    """
    folder, part, checked = name, "", []
    problem = (
        f"has more than {MAX_NAME_BYTES} bytes" if len(name.encode(errors="surrogatepass")) > MAX_NAME_BYTES else None
    )
    while not problem and folder not in folders:
        checked.append(folder)
        folder, slash, part = folder.rpartition("/")
        problem = _problem_of(part)
        if not slash:
            break
    if problem:
        raise NelboError(
            f"{ascii(name)[:80]} is no safe name for a member of an archive: it {problem}; rename the file"
        )
    folders.update(checked[1:])


def _problem_of(part: str) -> str | None:
    """Returns what makes a part of a name unsafe, for a sentence; None if nothing does."""
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in part):
        return "holds a control character"
    if "\\" in part:
        return "holds a backslash"
    if part in ("", ".", ".."):
        return "is absolute, empty or climbs out of its folder"
    if re.match("[A-Za-z]:", part):
        return "names a drive"
    if part[-1] in " .":
        return "has a part that ends with a dot or a space"
    if re.split("[.:]", part)[0].rstrip(" ").casefold() in _DEVICES:
        return "names a device"
    return None


def _runs(entries: Sequence[Entry]) -> Iterator[tuple[Entry, int]]:
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


def _decoded(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise CorruptArchiveError("a name in the list of images is not UTF-8: the file is damaged") from None


def _take_byte(data: bytes, at: int) -> tuple[int, int]:
    if at >= len(data):
        raise CorruptArchiveError("the list of images ends early: the file is damaged")
    return data[at], at + 1


def _varint(value: int) -> bytes:
    """Returns a number below 2^35 in LEB128: seven bits a byte, the lowest first, the top bit set but on the last."""
    head = []
    while value >= 0x80:
        head.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*head, value])


def _take_varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns the number at a place and the place after it, the inverse of :func:`_varint`."""
    value = 0
    for i, byte in enumerate(data[at : at + 5]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise CorruptArchiveError("a number in the list of images does not end: the file is damaged")
