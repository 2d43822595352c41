"""The file: what is written is read, and no damage goes unseen, crashes or allocates more than the file has bytes."""

import dataclasses
import hashlib
import io
import struct
import tracemalloc

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nelbo.codec.layout import spans_of
from nelbo.container.entries import MAX_IMAGES, Entry
from nelbo.container.framing import join_parts, split_parts
from nelbo.container.records import (
    SIGNATURE,
    Chain,
    Header,
    Kind,
    check_model,
    pack_chain,
    pack_header,
    read_chain,
    read_header,
)
from nelbo.container.stream import (
    ArchiveReader,
    ArchiveWriter,
    read_chain_at,
    read_places,
    recover_chains,
    recover_header,
)
from nelbo.errors import CorruptArchiveError, NelboError, UnsupportedArchiveError, WrongModelError

SHA = bytes(range(32))
TILE = (3, 32, 32)


def make_header(entries, **changes):
    header = Header("cifar10-small", SHA, 1, TILE, "spectral", (-13.3, -2.5, 5.0), 0.5, b"plan", entries)
    return dataclasses.replace(header, **changes)


def make_chain(first_tile, n_tiles, n_words=5, **changes):
    payload = hashlib.shake_128(bytes([first_tile % 256])).digest(4 * n_words)
    chain = Chain(Kind.BITS_BACK, n_tiles, first_tile, bytes(16), payload, 2**32, 2**63 + 5, 2**64 - 1, 1, 9)
    return dataclasses.replace(chain, **changes)


def make_jpeg_xl(first_tile, n_tiles, payload=b"\xff\x0a123"):
    return Chain(Kind.JPEG_XL, n_tiles, first_tile, bytes(16), payload)


def archive_of(header, chains):
    stream = io.BytesIO()
    writer = ArchiveWriter(stream, header)
    for chain in chains:
        writer.add(chain)
    writer.close()
    return stream.getvalue()


def read_all(data):
    reader = ArchiveReader(io.BytesIO(data))
    return reader.header, list(reader.chains())


IMAGES = [
    Entry("a/1.png", 32, 32, "RGB"),
    Entry("b.png", 65, 33, "L"),
    Entry("ü.png", 1, 1, "RGBA"),
]  # 1 + 6 + 1 tiles.
HEADER = make_header(IMAGES)
CHAINS = [make_chain(0, 4), make_chain(4, 3, n_words=0), make_jpeg_xl(7, 1)]
DATA = archive_of(HEADER, CHAINS)
LONG = archive_of(HEADER, [make_chain(0, 7, n_words=9000), make_jpeg_xl(7, 1)])  # With a copy of the header.
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
    assert [read_chain_at(stream, header, place) for place in reversed(places)] == chains[::-1]


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


@settings(max_examples=30)
@given(
    name=st.text(max_size=20).filter(lambda text: text.isprintable()),
    gammas=st.lists(st.floats(-20, 20), min_size=1, max_size=9, unique=True).map(sorted).map(tuple),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 600), st.integers(1, 600)),
    plan=st.binary(max_size=20),
    kappa=st.floats(2**-8, 16),
)
def test_every_header_is_read_back(name, gammas, shape, plan, kappa):
    header = make_header(IMAGES, model_name=name, gammas=gammas, tile_shape=shape, plan=plan, kappa=kappa)
    packed = pack_header(header)
    assert read_header(io.BytesIO(packed + b"more")) == (header, packed)


@given(parts=st.lists(st.binary(max_size=9), max_size=6), cut=st.integers(0, 99))
def test_parts_are_joined_and_split(parts, cut):
    joined = join_parts(parts)
    assert split_parts(joined, len(parts)) == parts
    for wrong in (joined[:cut], joined + b"\0"):
        if wrong != joined:
            with pytest.raises(CorruptArchiveError):
                split_parts(wrong, len(parts))


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


# Fields at their extremes, under a CRC32C that is right


def with_crc(data, start, end):
    """Returns the bytes with the right CRC32C of a range behind it."""
    return data[:end] + struct.pack("<I", google_crc32c.value(data[start:end])) + data[end + 4 :]


def with_field(data, offset, value):
    return data[:offset] + value + data[offset + len(value) :]


def test_a_newer_version_is_no_damage():
    for offset, value in ((8, b"\x02\x00"), (10, b"\x01\x00")):
        newer = with_crc(with_field(DATA, offset, value), 0, 16)
        with pytest.raises(UnsupportedArchiveError, match="upgrade"):
            read_all(newer)


@pytest.mark.parametrize("n_bytes", [0, 1, 2**26, 2**26 + 1, 2**31, 2**32 - 1])
def test_a_false_length_of_the_header_is_refused(n_bytes):
    with pytest.raises(CorruptArchiveError):
        read_all(with_crc(with_field(DATA, 12, struct.pack("<I", n_bytes)), 0, 16))


def header_with(offset, value):
    (n_bytes,) = struct.unpack_from("<I", DATA, 12)
    return with_crc(with_field(DATA, 20 + offset, value), 20, 20 + n_bytes)


@pytest.mark.parametrize(
    ("offset", "value", "error"),
    [
        (36, b"\x10", UnsupportedArchiveError),  # Precision.
        (37, b"\x00", CorruptArchiveError),  # Channels.
        (38, b"\x00\x00", CorruptArchiveError),  # Height.
        (40, b"\x01\x00", CorruptArchiveError),  # Width: then the chains hold too few tiles.
        (42, struct.pack("<d", float("nan")), CorruptArchiveError),  # kappa.
        (42, struct.pack("<d", -1.0), CorruptArchiveError),
        (42, struct.pack("<d", 1e300), CorruptArchiveError),
        (50, b"\x00\x00\x00\x00", CorruptArchiveError),  # Images.
        (50, b"\xff\xff\xff\xff", CorruptArchiveError),
        (50, b"\x02\x00\x00\x00", CorruptArchiveError),
        (54, b"\xff\xff\xff\xff", CorruptArchiveError),  # Parts.
        (54, b"\x00\x00\x00\x00", CorruptArchiveError),
        (58, b"\xff\xff\xff\xff", CorruptArchiveError),  # Length of the first part.
        (78, b"\xff", CorruptArchiveError),  # A name that is no UTF-8.
    ],
)
def test_header_fields_at_their_extremes(offset, value, error):
    tracemalloc.start()
    with pytest.raises(error):
        read_all(header_with(offset, value))
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


CHAIN_FIELDS = {  # Offsets behind magic and CRC32C.
    "kind": (0, [b"\x00", b"\x02", b"\xff"]),
    "n_tiles": (4, [struct.pack("<I", n) for n in (0, 3, 5, 9, 2**32 - 1)]),
    "first_tile": (8, [struct.pack("<Q", n) for n in (1, 2**63, 2**64 - 1)]),
    "head_q": (32, [struct.pack("<Q", n) for n in (0, 2**32 - 1)]),
    "head_p": (40, [struct.pack("<Q", n) for n in (0, 2**32 - 1)]),
    "n_seed_tiles": (56, [struct.pack("<I", n) for n in (5, 2**32 - 1)]),
    "payload": (64, [struct.pack("<Q", n) for n in (0, 1, 19, 21, 2**30, 2**30 + 1, 2**63, 2**64 - 1)]),
    "payload_crc": (72, [b"\x00\x00\x00\x00"]),
}


@pytest.mark.parametrize(
    ("offset", "value"), [(offset, value) for offset, values in CHAIN_FIELDS.values() for value in values]
)
def test_chain_fields_at_their_extremes(offset, value):
    packed = with_field(pack_chain(CHAINS[0]), 8 + offset, value)
    crc = struct.pack("<I", google_crc32c.value(packed[8:84]))
    data = DATA.replace(pack_chain(CHAINS[0]), with_field(packed, 4, crc))
    tracemalloc.start()
    with pytest.raises((CorruptArchiveError, UnsupportedArchiveError)):
        read_all(data)
    assert tracemalloc.get_traced_memory()[1] < 3e6
    tracemalloc.stop()


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
        read_chain_at(stream, header, places[0])


@pytest.mark.slow
def test_the_list_of_images_is_bounded():
    """A few bytes that claim the most images: the stated limit of memory, not more."""
    run = bytes([0, 1]) + b"1" + b"\x80\x80\x10" + bytes([1, 1, 1])
    assert MAX_IMAGES == 1 << 18
    packed = pack_header(make_header([Entry("1", 1, 1, "RGB")]))
    body = packed[20:-4]
    old = bytes([0, 1]) + b"1" + bytes([1, 1, 1, 1])
    assert body.endswith(old)
    body = body[: -len(old)].replace(struct.pack("<I", len(old)), struct.pack("<I", len(run))) + run
    body = with_field(body, 50, struct.pack("<I", MAX_IMAGES))
    preamble = packed[:12] + struct.pack("<I", len(body))
    data = b"".join(part + struct.pack("<I", google_crc32c.value(part)) for part in (preamble, body))
    header, _ = read_header(io.BytesIO(data))
    assert (len(header.entries), header.entries[-1].name) == (MAX_IMAGES, str(MAX_IMAGES))


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


@pytest.mark.parametrize(
    "changes",
    [
        {"gammas": (1.0, 1.0)},
        {"gammas": (2.0, 1.0)},
        {"gammas": (0.0, float("inf"))},
        {"gammas": tuple(map(float, range(10_002)))},
        {"kappa": 0.0},
        {"model_sha256": b"short"},
        {"tile_shape": (3, 0, 32)},
        {"entries": []},
    ],
)
def test_headers_that_cannot_be_are_refused(changes):
    with pytest.raises(NelboError):
        dataclasses.replace(HEADER, **changes)


@pytest.mark.parametrize(
    "changes", [{"payload": b"123"}, {"head_p": 5}, {"n_tiles": 0}, {"n_seed_tiles": 5}, {"kind": Kind.JPEG_XL}]
)
def test_chains_that_cannot_be_are_refused(changes):
    with pytest.raises(CorruptArchiveError):
        dataclasses.replace(CHAINS[0], **changes)


def test_chains_stay_within_their_limit():
    """Whatever --chain says, no chain holds more pixels or bytes than a reader must take."""
    images = [Entry(f"{i}.png", 2**side, 2**13, "RGBA") for i, side in enumerate((14, 14, 14, 17, 1))]
    header = make_header(images)
    assert [(span.first, span.end) for span in spans_of(header, 10**9)] == [(0, 2), (2, 3), (3, 4), (4, 5)]
    header = make_header([Entry(f"{i}.png", 2**15, 2**15, "RGB") for i in range(3)])
    with pytest.raises(CorruptArchiveError, match=r"more than 2\^31 pixels"):
        archive_of(header, [make_chain(0, 3 * 2**20)])


def test_a_payload_that_no_reader_takes_is_not_written(monkeypatch):
    chain = make_chain(0, 1, n_words=5)
    monkeypatch.setattr("nelbo.container.records.MAX_PAYLOAD_BYTES", 19)
    with pytest.raises(NelboError, match="takes 20 bytes, the limit is 19"):
        pack_chain(chain)


# The model


def test_the_model_must_be_the_one():
    check_model(HEADER, "cifar10-small", SHA, 1)
    with pytest.raises(WrongModelError, match=r"needs model cifar10-small \(SHA-256 0001020304"):
        check_model(HEADER, "other", bytes(32), 1)
    with pytest.raises(UnsupportedArchiveError, match="version 1 of the exact executor"):
        check_model(HEADER, "cifar10-small", SHA, 2)


# Recovery


def test_whole_chains_are_recovered_from_any_damage():
    """Each chain whose own bytes are whole is found, whatever happened elsewhere."""
    starts = [DATA.index(pack_chain(chain)) for chain in CHAINS]
    for place in range(len(DATA)):
        damaged = io.BytesIO(DATA[:place] + bytes([DATA[place] ^ 0x40]) + DATA[place + 1 :])
        hit = [start <= place < start + chain.n_bytes for start, chain in zip(starts, CHAINS, strict=True)]
        expected = [chain for chain, is_hit in zip(CHAINS, hit, strict=True) if not is_hit]
        assert list(recover_chains(damaged, HEADER)) == expected


def test_chains_are_recovered_from_cuts_and_insertions():
    assert list(recover_chains(io.BytesIO(DATA[:-60]), HEADER)) == CHAINS
    middle = DATA.index(pack_chain(CHAINS[1])) - 3
    assert list(recover_chains(io.BytesIO(DATA[:middle] + b"junk" + DATA[middle:]), HEADER)) == CHAINS[1:]
    assert list(recover_chains(io.BytesIO(DATA[:middle] + DATA[middle + 2 :]), HEADER)) == CHAINS[1:]


def test_a_header_is_recovered_from_its_copy():
    assert recover_header(io.BytesIO(bytes(50) + LONG[50:])) == HEADER
    with pytest.raises(CorruptArchiveError, match="no header that is whole"):
        recover_header(io.BytesIO(bytes(50) + DATA[50:]))


def test_a_magic_across_windows_is_found(monkeypatch):
    monkeypatch.setattr("nelbo.container.stream._WINDOW_BYTES", 5)
    assert list(recover_chains(io.BytesIO(DATA), HEADER)) == CHAINS


def test_recovery_does_not_read_the_file_over_and_over(monkeypatch):
    """Chain headers that are whole and each claim the rest of the file: a limited number is tried."""
    liar = make_chain(0, 4, n_words=25_000)
    head = pack_chain(liar)[:84]
    n_read = 0

    class Counting(io.BytesIO):
        def read(self, *args):
            nonlocal n_read
            piece = super().read(*args)
            n_read += len(piece)
            return piece

    data = head * 2000
    assert list(recover_chains(Counting(data), HEADER)) == []
    assert n_read < 12 * len(data)


def test_a_chain_is_read_where_it_lies():
    stream = io.BytesIO(pack_chain(CHAINS[0]) + b"next")
    assert read_chain(stream) == CHAINS[0]
    assert stream.read() == b"next"


def test_the_pixel_hash_is_blake2b():
    # By `b2sum -l 128` of the six bytes.
    assert Chain.hash_of([b"abc", b"", b"def"]).hex() == "2465e7ee63a17b4b307c7792c432aef6"


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
        recovered = list(recover_chains(io.BytesIO(data), HEADER))
        assert all(chain in CHAINS for chain in recovered)
        assert all(chain in recovered for chain in CHAINS if pack_chain(chain) in data)
