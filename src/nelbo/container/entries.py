"""The members of an archive: images whose pixels are coded, files kept as bytes, and what both must hold to.

Names are checked in :mod:`nelbo.container.names`, the list is packed in :mod:`nelbo.container.entry_list`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from nelbo.container.names import are_portable, check_any_name, check_name, name_bytes
from nelbo.errors import NelboError

MODES = ("L", "RGB", "LA", "RGBA", "I;16")  # Pillow's names; their places are the codes in the file.
DEEP_MODES = ("LA;16", "RGB;16", "RGBA;16")  # What version 2 adds.
MAX_IMAGES = 1 << 18
MAX_NAMES = 1 << 26  # Bytes of all names together.
MAX_SIDE = 1 << 20
MAX_PIXELS = 1 << 30
MAX_FILE_BYTES = 1 << 48
PIECE_BYTES = 1 << 24  # A file is stored in pieces of so many bytes.


@dataclass(frozen=True, slots=True)
class Entry:
    """An image whose pixels are coded.

    Attributes:
        name: Its path inside the archive.
        width: Its columns.
        height: Its rows.
        mode: Pillow's name of its samples, or one of ``DEEP_MODES``.
        format: The image format whose file is rebuilt around the pixels; empty where the pixels are all there is.
    """

    name: str
    width: int
    height: int
    mode: str
    format: str = ""

    def n_tiles(self, tile_shape: tuple[int, int, int]) -> int:
        """Returns how many tiles of shape (C, H, W) cover the image, in rows of them."""
        return -(-self.height // tile_shape[1]) * -(-self.width // tile_shape[2])


class FileKind(IntEnum):
    """What a member is that has no pixels; their values are the codes in the file."""

    FILE = 32
    FOLDER = 33
    LINK = 34


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file that is kept as bytes, an empty folder, or a link, whose bytes are its target.

    Attributes:
        name: Its path inside the archive.
        n_bytes: Its length.
        kind: What it is.
        format: The image format that packs it, such as ``JPEG``; empty where its own bytes are stored.
    """

    name: str
    n_bytes: int
    kind: FileKind = FileKind.FILE
    format: str = ""

    def n_tiles(self, _tile_shape: tuple[int, int, int] = (1, 1, 1)) -> int:
        """Returns how many pieces it has, which count as tiles."""
        return 1 if self.format else max(1, -(-self.n_bytes // PIECE_BYTES))


Member = Entry | FileEntry


def needs_version_2(entries: Sequence[Member]) -> bool:
    """Returns whether only version 2 of the format holds these members."""
    plain = all(isinstance(each, Entry) and not each.format and each.mode in MODES for each in entries)
    return not plain or not are_portable([each.name for each in entries])


def check_entries(entries: Sequence[Member], version: int = 1) -> None:
    """Checks names, sizes and modes, that no name occurs twice, and that none is also a folder of another.

    Raises:
        NelboError: If one of these does not hold.
    """
    if not 1 <= len(entries) <= MAX_IMAGES:
        raise NelboError(f"{len(entries)} images: an archive holds 1 to {MAX_IMAGES}")
    names, folders = {entry.name for entry in entries}, set[str]()
    if len(names) < len(entries):
        raise NelboError(f"two images of an archive have the same name, {_first_repeated(entries)!a}: rename one")
    if sum(len(name_bytes(name)) for name in names) > MAX_NAMES:
        raise NelboError(f"the names of an archive's images take more than {MAX_NAMES} bytes: shorten them")
    for entry in entries:
        (check_name if version == 1 else check_any_name)(entry.name, folders)
        if isinstance(entry, Entry):
            _check_image(entry, version)
        elif not 0 <= entry.n_bytes <= MAX_FILE_BYTES:
            raise NelboError(f"{entry.name!a} has {entry.n_bytes} bytes: the limit is 2^48")
    if clash := names & folders:
        raise NelboError(f"{min(clash)!a} is a member of an archive and the folder of another: rename one")


def _check_image(entry: Entry, version: int) -> None:
    sides = entry.width, entry.height
    if not (min(sides) >= 1 and max(sides) <= MAX_SIDE and entry.width * entry.height <= MAX_PIXELS):
        raise NelboError(f"{entry.name!a} has {entry.width} x {entry.height} pixels: the limit is 2^30")
    modes = MODES if version == 1 else MODES + DEEP_MODES
    if entry.mode not in modes:
        raise NelboError(f"{entry.name!a} has mode {entry.mode!r}: an archive holds {', '.join(modes)}")


def _first_repeated(entries: Sequence[Member]) -> str:
    seen: set[str] = set()
    return next(entry.name for entry in entries if entry.name in seen or seen.add(entry.name))
