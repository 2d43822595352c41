"""Recovery finds every chain whose own bytes are whole, and never another one."""

import io

import numpy as np
import pytest

from nelbo.container.records import pack_block
from nelbo.container.stream import recover_blocks, recover_header
from nelbo.errors import CorruptArchiveError, UnsupportedArchiveError

from fixtures.streams import CHAINS, DATA, HEADER, LONG, make_chain, read_all


def test_whole_chains_are_recovered_from_any_damage():
    """Each chain whose own bytes are whole is found, whatever happened elsewhere."""
    starts = [DATA.index(pack_block(chain)) for chain in CHAINS]
    for place in range(len(DATA)):
        damaged = io.BytesIO(DATA[:place] + bytes([DATA[place] ^ 0x40]) + DATA[place + 1 :])
        hit = [start <= place < start + chain.n_bytes for start, chain in zip(starts, CHAINS, strict=True)]
        expected = [chain for chain, is_hit in zip(CHAINS, hit, strict=True) if not is_hit]
        assert list(recover_blocks(damaged, HEADER)) == expected


def test_chains_are_recovered_from_cuts_and_insertions():
    assert list(recover_blocks(io.BytesIO(DATA[:-60]), HEADER)) == CHAINS
    middle = DATA.index(pack_block(CHAINS[1])) - 3
    assert list(recover_blocks(io.BytesIO(DATA[:middle] + b"junk" + DATA[middle:]), HEADER)) == CHAINS[1:]
    assert list(recover_blocks(io.BytesIO(DATA[:middle] + DATA[middle + 2 :]), HEADER)) == CHAINS[1:]


def test_a_header_is_recovered_from_its_copy():
    assert recover_header(io.BytesIO(bytes(50) + LONG[50:])) == HEADER
    with pytest.raises(CorruptArchiveError, match="no header that is whole"):
        recover_header(io.BytesIO(bytes(50) + DATA[50:]))


def test_a_magic_across_windows_is_found(monkeypatch):
    monkeypatch.setattr("nelbo.container.stream._WINDOW_BYTES", 5)
    assert list(recover_blocks(io.BytesIO(DATA), HEADER)) == CHAINS


def test_recovery_does_not_read_the_file_over_and_over(monkeypatch):
    """Chain headers that are whole and each claim the rest of the file: a limited number is tried."""
    liar = make_chain(0, 4, n_words=25_000)
    head = pack_block(liar)[:84]
    n_read = 0

    class Counting(io.BytesIO):
        def read(self, *args):
            nonlocal n_read
            piece = super().read(*args)
            n_read += len(piece)
            return piece

    data = head * 2000
    assert list(recover_blocks(Counting(data), HEADER)) == []
    assert n_read < 12 * len(data)


# Mutations


def mutated(data, rng):
    """Returns the bytes after one to four random changes: bytes set, cut out, inserted, copied from elsewhere."""
    for _ in range(rng.integers(1, 5)):
        at, source = (int(rng.integers(0, len(data) + 1)) for _ in range(2))
        n_bytes = int(rng.integers(1, 9))
        middle = [
            bytes([rng.integers(0, 256)]) * n_bytes,
            b"",
            data[at : at + n_bytes] * 2,
            data[source : source + n_bytes],
        ]
        data = data[:at] + middle[rng.integers(0, 4)] + data[at + n_bytes :]
    return data


@pytest.mark.parametrize("n_mutations", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutations_are_refused_and_whole_chains_recovered(n_mutations):
    rng = np.random.default_rng(n_mutations)
    for _ in range(n_mutations):
        data = mutated(DATA, rng)
        if data == DATA:
            continue
        with pytest.raises((CorruptArchiveError, UnsupportedArchiveError)):
            read_all(data)
        recovered = list(recover_blocks(io.BytesIO(data), HEADER))
        assert all(chain in CHAINS for chain in recovered)
        assert all(chain in recovered for chain in CHAINS if pack_block(chain) in data)
