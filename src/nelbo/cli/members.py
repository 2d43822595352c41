"""What an archive holds, for people and programs: each member with its size, its method and its price."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from nelbo.container.header import Header
    from nelbo.container.records import Block

_METHODS = {"BITS_BACK": "bits-back", "JPEG_XL": "JPEG XL", "FILES": "bytes"}


@dataclass(frozen=True)
class MemberInfo:
    """A member of an archive.

    Attributes:
        name: Its name.
        kind: ``image``, ``file``, ``folder`` or ``link``.
        size: Its pixels as width x height and mode, or its bytes.
        method: How it is coded.
        n_bytes: Its share of its chain's bytes.
        bits_per_dimension: These as bits a sample; None if it has no pixels.
        modified: When it was last modified, in nanoseconds since 1970; None where that is not kept.
    """

    name: str
    kind: str
    size: str
    method: str
    n_bytes: int
    bits_per_dimension: float | None
    modified: int | None


@dataclass(frozen=True)
class ArchiveInfo:
    """What an archive holds.

    Attributes:
        header: Its header.
        members: Its members.
        n_chains: Its chains.
        n_bytes: Its bytes.
        n_file_bytes: Those of files that are kept as bytes.
    """

    header: "Header"
    members: Sequence[MemberInfo]
    n_chains: int
    n_bytes: int
    n_file_bytes: int

    @property
    def summary(self) -> str:
        """How many members became how many bytes, and what a dimension of the images takes."""
        from nelbo.codec.tiles import pixel_shape

        n_dimensions = sum(prod(pixel_shape(entry)) for entry in self.header.images)
        n_files = len(self.members) - len(self.header.images)
        kinds = [counted(n, kind) for n, kind in ((len(self.header.images), "image"), (n_files, "file")) if n]
        price = 8 * (self.n_bytes - self.n_file_bytes) / n_dimensions if n_dimensions else None
        bpd = "" if price is None else f", {price:.3f} bits per dimension"
        return f"{' and '.join(kinds)}, {self.n_bytes} bytes{bpd}"

    def as_json(self) -> dict[str, object]:
        """Returns what programs read."""
        header = self.header
        return {
            "version": header.version,
            "bytes": self.n_bytes,
            "chains": self.n_chains,
            "model": header.model_name,
            "model_sha256": header.model_sha256.hex(),
            "kernel": header.kernel,
            "levels": len(header.gammas),
            "members": [asdict(member) for member in self.members],
        }


def measured(stream: IO[bytes]) -> ArchiveInfo:
    """Returns what an archive holds, from its header, its index and the heads of its chains.

    Raises:
        CorruptArchiveError: If one of them is damaged.
    """
    from nelbo.container.entries import Entry
    from nelbo.container.records import CONTENT, BlockKind
    from nelbo.container.stream import read_block_at, read_places

    header, places = read_places(stream)
    n_bytes = stream.seek(0, 2)
    found: dict[int, list[tuple[str, float]]] = {}
    n_file_bytes = 0
    for place in places:
        chain = read_block_at(stream, header, place)
        if chain.kind is BlockKind.FILES:
            n_file_bytes += chain.n_bytes
        if chain.kind in CONTENT:
            for i, share in _shares(chain, header):
                found.setdefault(i, []).append((_METHODS[BlockKind(chain.kind).name], share))
    members = []
    for i, entry in enumerate(header.entries):
        share = sum(n for _, n in found.get(i, []))
        method = entry.format if not isinstance(entry, Entry) and entry.format else ", ".join({m for m, _ in found[i]})
        time = header.times[i] if header.times is not None else None
        if isinstance(entry, Entry):
            from nelbo.codec.tiles import pixel_shape

            size, bpd = f"{entry.width} x {entry.height} {entry.mode}", 8 * share / prod(pixel_shape(entry))
            members.append(MemberInfo(entry.name, "image", size, method, round(share), bpd, time))
        else:
            kind = entry.kind.name.lower()
            members.append(MemberInfo(entry.name, kind, str(entry.n_bytes), method, round(share), None, time))
    return ArchiveInfo(header, members, len(places), n_bytes, n_file_bytes)


def _shares(chain: "Block", header: "Header") -> Iterator[tuple[int, float]]:
    """Yields the members of a chain with their shares of its bytes: those of their JPEG XL files, else of its tiles."""
    from nelbo.container.framing import U32
    from nelbo.container.records import BlockKind

    numbering = header.numbering(chain.coding)
    first, end = chain.first_tile, chain.first_tile + chain.n_tiles
    members = range(header.position(chain.coding, first)[0], bisect_left(numbering, end))
    weights = [float(min(end, numbering[i + 1]) - max(first, numbering[i])) for i in members]
    if chain.kind is BlockKind.JPEG_XL:
        weights = [U32.unpack_from(chain.payload, U32.size * (1 + k))[0] for k in range(len(members))]
    if chain.kind is BlockKind.FILES and len(members) > 1:
        weights = [1.0 + getattr(header.entries[i], "n_bytes", 0) for i in members]
    total = sum(weights) or 1.0
    yield from ((i, chain.n_bytes * weight / total) for i, weight in zip(members, weights, strict=True))


def table(members: Sequence[MemberInfo], verbose: bool) -> Iterator[str]:
    """Yields a line for each member, as text that any terminal shows."""
    from nelbo.cli.archive_files import printable

    for each in members:
        line = f"{each.size:>20}  {printable(each.name)}" if each.kind == "image" else None
        line = line or f"{each.size + ' bytes':>20}  {printable(each.name)}{_MARKS[each.kind]}"
        if verbose:
            bpd = "" if each.bits_per_dimension is None else f"{each.bits_per_dimension:.3f} bpd"
            line = f"{each.n_bytes:>10}  {bpd:>10}  {each.method:<10}{line}"
        yield line


_MARKS = {"file": "", "folder": "/", "link": " (link)"}


def counted(n: int, what: str) -> str:
    """Returns a number of things in words.

    Example:
        >>> counted(1, "image"), counted(2, "image")
        ('1 image', '2 images')
    """
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def in_words(counts: Mapping[str, int]) -> str:
    """Returns how many of which kind, the most first."""
    return ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
