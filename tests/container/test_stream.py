"""The file: what is written is read, and no damage goes unseen, crashes or allocates more than the file has bytes."""

import hashlib
import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nelbo.codec.layout import spans_of
from nelbo.container.entries import Entry
from nelbo.container.header_bytes import SIGNATURE
from nelbo.container.stream import ArchiveReader, read_block_at, read_places
from nelbo.errors import CorruptArchiveError, NelboError, UnsupportedArchiveError

from fixtures.streams import (
    CHAINS,
    DATA,
    HEADER,
    IMAGES,
    LONG,
    archive_of,
    make_chain,
    make_header,
    make_jpeg_xl,
    read_all,
    with_crc,
    with_field,
)

files = pytest.mark.parametrize("data", [DATA, LONG], ids=["small", "long"])


# Round trips


def test_the_bytes_of_version_1_are_pinned():
    assert hashlib.sha256(DATA).hexdigest() == "1cda3ed3b9a9837e21a04990c1b6c4e5bd238646cdfc2006612edd186f9a24f9"
    assert hashlib.sha256(LONG).hexdigest() == "a8fdc6bb4afcaa0e730592c793259db2f5264dc30197913756766f43985a49d4"


def test_what_is_written_is_read():
    assert HEADER.first_tiles == [0, 1, 7, 8]
    assert read_all(DATA) == (HEADER, CHAINS)
    assert DATA.count(SIGNATURE) == 1
    assert LONG.count(SIGNATURE) == 2


@files
def test_the_index_finds_every_chain(data):
    stream = io.BytesIO(data)
    header, places = read_places(stream)
    expected_header, chains = read_all(data)
    assert header == expected_header
    assert [read_block_at(stream, header, place) for place in reversed(places)] == chains[::-1]


def test_a_stream_need_not_seek():
    class Pipe(io.RawIOBase):
        def __init__(self, data):
            self.inner = io.BytesIO(data)

        def readable(self):
            return True

        def readinto(self, buffer):  # Like a pipe: fewer bytes than asked for.
            piece = self.inner.read(min(len(buffer), 7))
            buffer[: len(piece)] = piece
            return len(piece)

    pipe = io.BufferedReader(Pipe(DATA))
    reader = ArchiveReader(pipe)
    assert list(reader.chains()) == CHAINS


def test_ten_thousand_images_cost_little():
    """Below 0.002 bits per dimension of 32 x 32 x 3, in ten chains, beside the chains' payloads."""
    images = [Entry(f"{i:05d}.png", 32, 32, "RGB") for i in range(10_000)]
    header = make_header(images, gammas=tuple(np.linspace(-13, 5, 65)))
    chains = [make_chain(first, 1000, n_words=260_000) for first in range(0, 10_000, 1000)]
    overhead = len(archive_of(header, chains)) - sum(len(chain.payload) for chain in chains)
    assert overhead * 8 / (10_000 * 3072) < 0.002


# Damage


@files
def test_every_flipped_byte_is_seen(data):
    places = range(len(data)) if len(data) < 1000 else [*range(0, 700, 5), *range(len(data) - 700, len(data), 5)]
    for place in places:
        for bits in (0x01, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[place] ^= bits
            with pytest.raises((CorruptArchiveError, UnsupportedArchiveError)) as error:
                read_all(bytes(damaged))
            assert str(error.value).isprintable()


@files
def test_every_truncation_is_seen(data):
    for n_bytes in range(len(data)) if len(data) < 1000 else [*range(0, 700, 5), *range(len(data) - 700, len(data), 5)]:
        with pytest.raises(CorruptArchiveError):
            read_all(data[:n_bytes])
        with pytest.raises(CorruptArchiveError):
            read_places(io.BytesIO(data[:n_bytes]))


def test_every_flip_in_header_and_index_is_seen_without_the_chains():
    start = DATA.index(b"\x89nCh")
    end = DATA.index(b"\x89nIx")
    for place in [*range(start), *range(end, len(DATA))]:
        damaged = bytearray(DATA)
        damaged[place] ^= 0x10
        with pytest.raises((CorruptArchiveError, UnsupportedArchiveError)):
            read_places(io.BytesIO(damaged))


@files
def test_bytes_after_the_end_are_seen(data):
    with pytest.raises(CorruptArchiveError, match="after its end"):
        read_all(data + b"\0")


@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused(data):
    for prefix in (b"", SIGNATURE, DATA[:20], DATA[:40]):
        with pytest.raises(CorruptArchiveError):
            read_all(prefix + data)


@pytest.mark.parametrize(("old", "new"), [(b"\r\n", b"\n"), (b"\n", b"\r\n"), (b"\r", b""), (b"\x89", b"\x09")])
def test_a_transfer_as_text_is_named(old, new):
    with pytest.raises(CorruptArchiveError, match="as text"):
        read_all(DATA.replace(old, new))


@pytest.mark.parametrize("data", [b"GIF89a" + bytes(99), bytes(99), b"\x89PNG\r\n\x1a\n" + bytes(99)])
def test_other_files_are_named(data):
    with pytest.raises(CorruptArchiveError, match=r"no \.nelbo archive"):
        read_all(data)


@pytest.mark.parametrize("n_index", [0, 3, 2**40, 2**64 - 1])
def test_a_false_length_of_the_index_is_refused(n_index):
    data = with_field(DATA, len(DATA) - 20, struct.pack("<Q", n_index))
    data = with_crc(data, len(DATA) - 20, len(DATA) - 12)
    for read in (read_all, lambda data: read_places(io.BytesIO(data))):
        with pytest.raises(CorruptArchiveError):
            read(data)


def test_an_index_of_other_chains_is_refused():
    other = archive_of(HEADER, [make_chain(0, 3), make_chain(3, 4, n_words=0), make_jpeg_xl(7, 1)])
    mixed = DATA[: DATA.index(b"\x89nIx")] + other[other.index(b"\x89nIx") :]
    with pytest.raises(CorruptArchiveError, match="index"):
        read_all(mixed)
    stream = io.BytesIO(mixed)
    header, places = read_places(stream)
    with pytest.raises(CorruptArchiveError, match="index"):
        read_block_at(stream, header, places[0])


# Writing


@pytest.mark.parametrize(
    ("chains", "problem"),
    [
        ([make_chain(1, 7)], "does not follow"),
        ([make_chain(0, 4), make_chain(5, 3)], "does not follow"),
        ([make_chain(0, 9)], "more tiles"),
        ([make_jpeg_xl(0, 4)], "divides an image"),
        ([make_chain(0, 7)], "before all"),
    ],
)
def test_chains_that_do_not_fit_are_not_written(chains, problem):
    with pytest.raises(NelboError, match=problem):
        archive_of(HEADER, chains)


def test_bits_back_needs_a_schedule():
    with pytest.raises(CorruptArchiveError, match="time schedule"):
        archive_of(make_header(IMAGES, gammas=()), [make_chain(0, 8)])
    data = archive_of(make_header(IMAGES, gammas=()), [make_jpeg_xl(0, 8)])
    assert read_all(data)[0].gammas == ()


def test_chains_stay_within_their_limit():
    """Whatever --chain says, no chain holds more pixels or bytes than a reader must take."""
    images = [Entry(f"{i}.png", 2**side, 2**13, "RGBA") for i, side in enumerate((14, 14, 14, 17, 1))]
    header = make_header(images)
    assert [(span.first, span.end) for span in spans_of(header, 10**9)] == [(0, 2), (2, 3), (3, 4), (4, 5)]
    header = make_header([Entry(f"{i}.png", 2**15, 2**15, "RGB") for i in range(3)])
    with pytest.raises(CorruptArchiveError, match=r"more than 2\^31 pixels"):
        archive_of(header, [make_chain(0, 3 * 2**20)])
