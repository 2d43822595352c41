"""An archive brings a schedule only if that pays: it is never larger than JPEG XL and a header without one."""

from io import BytesIO

import pytest

from nelbo.codec.layout import Choice, settled
from nelbo.container.entries import Entry
from nelbo.container.header import Header
from nelbo.container.records import Block, BlockKind
from nelbo.container.stream import ArchiveWriter

N_CHAINS = 6


def header_of(n_plan):
    entries = [Entry(f"{i}.png", 8, 8, "RGB") for i in range(N_CHAINS)]
    plan = bytes((i * i * 2654435761 >> 8) % 256 for i in range(n_plan))
    return Header("m", bytes(32), 1, (3, 8, 8), "analytic", (-3.0, 1.0), 2.0, b"\0" + plan, entries)


def choices_of(n_plain, saved):
    for i in range(N_CHAINS):
        plain = Block(BlockKind.JPEG_XL, 1, i, bytes(16), bytes(n_plain))
        n_words = (n_plain - saved) // 4
        coded = Block(BlockKind.BITS_BACK, 1, i, bytes(16), bytes(4 * n_words), 1 << 40, 1 << 40)
        yield Choice.of(coded, plain)


def n_bytes(header, chains):
    stream = BytesIO()
    writer = ArchiveWriter(stream, header)
    for group in chains:
        for chain in group:
            writer.add(chain)
    writer.close()
    return stream.tell()


@pytest.mark.parametrize("n_plan", [10, 1000, 5000])
@pytest.mark.parametrize("n_plain", [400, 4000, 200_000])
@pytest.mark.parametrize("saved", [-40, 40, 200, 396])
def test_the_smaller_archive_is_written(n_plan, n_plain, saved):
    header, choices = header_of(n_plan), list(choices_of(n_plain, saved))
    best = n_bytes(header, [[choice.best] for choice in choices])
    bare, plain = settled(header, [Choice(choice.plain, choice.plain) for choice in choices])
    assert not bare.gammas
    assert n_bytes(*settled(header, choices)) == min(best, n_bytes(bare, plain))


def test_what_does_not_pay_soon_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("nelbo.codec.layout.HELD_BYTES", 1000)
    read = []
    choices = (read.append(i) or choice for i, choice in enumerate(choices_of(400, 40)))
    header, chains = settled(header_of(5000), choices)
    assert not header.gammas
    assert len(read) == 3
    assert [chain.kind for (chain,) in chains] == [BlockKind.JPEG_XL] * N_CHAINS
