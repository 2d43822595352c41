"""The records of an archive: what is packed is read, and fields at their extremes are refused."""

import dataclasses
import io
import struct
import tracemalloc

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nelbo.container.entries import MAX_IMAGES, Entry
from nelbo.container.header import check_model
from nelbo.container.header_bytes import pack_header, read_header
from nelbo.container.records import Block, BlockKind, pack_block, read_block
from nelbo.errors import CorruptArchiveError, NelboError, UnsupportedArchiveError, WrongModelError

from fixtures.streams import CHAINS, DATA, HEADER, IMAGES, SHA, make_chain, make_header, read_all, with_crc, with_field


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


def test_a_chain_is_read_where_it_lies():
    stream = io.BytesIO(pack_block(CHAINS[0]) + b"next")
    assert read_block(stream) == CHAINS[0]
    assert stream.read() == b"next"


def test_the_pixel_hash_is_blake2b():
    # By `b2sum -l 128` of the six bytes.
    assert Block.hash_of([b"abc", b"", b"def"]).hex() == "2465e7ee63a17b4b307c7792c432aef6"


def test_the_model_must_be_the_one():
    check_model(HEADER, "cifar10-small", SHA, 1)
    with pytest.raises(WrongModelError, match=r"needs model cifar10-small \(SHA-256 0001020304"):
        check_model(HEADER, "other", bytes(32), 1)
    with pytest.raises(UnsupportedArchiveError, match="version 1 of the exact executor"):
        check_model(HEADER, "cifar10-small", SHA, 2)


# Fields at their extremes, under a CRC32C that is right


def test_a_newer_version_is_no_damage():
    for offset, value in ((8, b"\x03\x00"), (10, b"\x01\x00")):
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
    packed = with_field(pack_block(CHAINS[0]), 8 + offset, value)
    crc = struct.pack("<I", google_crc32c.value(packed[8:84]))
    data = DATA.replace(pack_block(CHAINS[0]), with_field(packed, 4, crc))
    tracemalloc.start()
    with pytest.raises((CorruptArchiveError, UnsupportedArchiveError)):
        read_all(data)
    assert tracemalloc.get_traced_memory()[1] < 3e6
    tracemalloc.stop()


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
    "changes", [{"payload": b"123"}, {"head_p": 5}, {"n_tiles": 0}, {"n_seed_tiles": 5}, {"kind": BlockKind.JPEG_XL}]
)
def test_chains_that_cannot_be_are_refused(changes):
    with pytest.raises(CorruptArchiveError):
        dataclasses.replace(CHAINS[0], **changes)


def test_a_payload_that_no_reader_takes_is_not_written(monkeypatch):
    chain = make_chain(0, 1, n_words=5)
    monkeypatch.setattr("nelbo.container.records.MAX_PAYLOAD_BYTES", 19)
    with pytest.raises(NelboError, match="takes 20 bytes, the limit is 19"):
        pack_block(chain)
