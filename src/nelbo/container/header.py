"""What all blocks of an archive share: its members, and the network, levels and tiles that they are coded with."""

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from nelbo.container.entries import Entry, Member, check_entries, needs_version_2
from nelbo.errors import NelboError, UnsupportedArchiveError, WrongModelError

MAX_STEPS = 10_000
MAX_CODINGS = 255


@dataclass(frozen=True)
class Coding:
    """A network, the chain of latents that blocks are coded along, and the tiles that images are cut into.

    Attributes:
        model_name: The model's name, for messages.
        model_sha256: The fingerprint of the frozen model.
        executor_version: The version of the integer semantics of the network's execution.
        tile_shape: Channels, height and width of a tile.
        kernel: The name of the reverse kernel.
        gammas: The time schedule, strictly increasing; empty if no block is bits-back.
        kappa: The lattice step over the standard deviation of the step's posterior.
        plan: Integers of the chain's steps that must not be recomputed; the executor version says what they are.
        prior: Means and variances of the noisiest latent in the chain's basis; empty for N(0, 1). Version 2.
    """

    model_name: str
    model_sha256: bytes
    executor_version: int
    tile_shape: tuple[int, int, int]
    kernel: str
    gammas: tuple[float, ...]
    kappa: float
    plan: bytes
    prior: bytes = field(default=b"", kw_only=True)

    def __post_init__(self) -> None:
        if len(self.gammas) > MAX_STEPS + 1:
            raise NelboError(f"{len(self.gammas)} levels: a time schedule has at most {MAX_STEPS + 1} in an archive")
        if not all(map(math.isfinite, self.gammas)) or any(s >= t for s, t in itertools.pairwise(self.gammas)):
            raise NelboError("the gammas of the time schedule do not increase: choose another schedule")
        if not (0 < self.kappa <= 16) or len(self.model_sha256) != 32 or min(self.tile_shape) < 1:
            raise NelboError("kappa, the SHA-256 or the shape of the model is invalid")


@dataclass(frozen=True)
class Header(Coding):
    """The header of an archive: its first coding, which is the only one in version 1, and its members.

    Attributes:
        entries: The members, in order.
        version: The version of the format.
        others: Further codings, which blocks name by their number from 1 on. Version 2.
        times: When each member was last modified, in nanoseconds since 1970; None where that is not kept. Version 2.
    """

    entries: Sequence[Member]
    version: int = field(default=1, kw_only=True)
    others: tuple[Coding, ...] = field(default=(), kw_only=True)
    times: tuple[int, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_entries(self.entries, self.version)
        is_second = self.prior or self.others or self.times is not None or needs_version_2(self.entries)
        if self.version == 1 and is_second:
            raise NelboError("version 1 of the format does not hold these members: write version 2")
        if len(self.others) >= MAX_CODINGS or (self.times is not None and len(self.times) != len(self.entries)):
            raise NelboError("an archive has too many codings, or another number of times than of members")

    def coding(self, i: int) -> Coding:
        """Returns the coding that a block names.

        Raises:
            NelboError: If there is none.
        """
        if i > len(self.others):
            raise NelboError(f"a block names coding {i} of {1 + len(self.others)}")
        return self if i == 0 else self.others[i - 1]

    @property
    def first_tiles(self) -> list[int]:
        """The number of tiles before each member, and of all of them, cut for the first coding."""
        return self.numbering(0)

    def numbering(self, coding: int) -> list[int]:
        """Returns the number of tiles before each member, and of all of them, cut for a coding."""
        shape = self.coding(coding).tile_shape
        if shape not in self._numberings:
            tiles = (entry.n_tiles(shape) for entry in self.entries)
            self._numberings[shape] = list(itertools.accumulate(tiles, initial=0))
        return self._numberings[shape]

    @cached_property
    def _numberings(self) -> dict[tuple[int, int, int], list[int]]:
        return {}

    def position(self, coding: int, tile: int) -> tuple[int, int]:
        """Returns the member that a tile belongs to, and its number there; behind all, as many members and 0."""
        numbering = self.numbering(coding)
        member = bisect_right(numbering, tile) - 1
        return member, tile - numbering[member]

    def tile(self, coding: int, position: tuple[int, int]) -> int:
        """Returns the number of a tile among all, the inverse of :meth:`position`.

        Raises:
            NelboError: If there is no such member or tile.
        """
        member, tile = position
        numbering = self.numbering(coding)
        if member >= len(self.entries) or tile >= numbering[member + 1] - numbering[member]:
            raise NelboError(f"there is no tile {tile} of member {member}")
        return numbering[member] + tile

    @property
    def images(self) -> list[Entry]:
        """The members whose pixels are coded."""
        return [entry for entry in self.entries if isinstance(entry, Entry)]


def check_model(header: Coding, name: str, sha256: bytes, executor_version: int) -> None:
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
