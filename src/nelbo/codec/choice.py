"""Bits-back or JPEG XL: the smaller of both for each chain, and for an archive with all that it brings."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

from nelbo.codec.container import n_copies
from nelbo.codec.records import Chain, Header, pack_header

HELD_BYTES = 1 << 26


@dataclass(frozen=True)
class Choice:
    """A chain, and the same tiles as JPEG XL, which it may be.

    Attributes:
        best: The smaller one.
        plain: JPEG XL.
    """

    best: Chain
    plain: Chain

    @staticmethod
    def of(coded: Chain | None, plain: Chain) -> "Choice":
        """Returns the choice between a chain that is bits-back, if there is one, and JPEG XL."""
        return Choice(plain if coded is None or not is_smaller(coded.n_bytes, plain.n_bytes) else coded, plain)


def settled(header: Header, choices: Iterable[Choice]) -> tuple[Header, Iterator[Chain]]:
    """Returns header and chains of the smaller archive: with a schedule and the best chains, or all JPEG XL without.

    The first chains are held back until they save more than the schedule takes, which then is certain for the whole;
    where 64 MB of them do not, the rest is not waited for.
    """
    bare = replace(header, kernel="", gammas=(), plan=b"")
    n_header = len(pack_header(header))
    cost, left = n_header - len(pack_header(bare)), iter(choices)
    held: list[Choice] = []
    n_best = n_plain = n_coded = 0

    def pays(n_headers: int) -> bool:
        return n_coded > 0 and is_smaller(n_best + n_headers * cost, n_plain)

    for choice in left:
        held.append(choice)
        n_best, n_plain = n_best + choice.best.n_bytes, n_plain + choice.plain.n_bytes
        n_coded += choice.best is not choice.plain
        is_paid = pays(2)
        if is_paid or n_plain >= HELD_BYTES:
            break
    else:
        is_paid = pays(n_copies(n_header, n_best))
    if is_paid:
        return header, (each.best for each in chain(held, left))
    return bare, (each.plain for each in chain(held, left))


def is_smaller(n_bytes: int, other: int) -> bool:
    """Returns whether so many bytes are fewer than others."""
    return n_bytes < other
