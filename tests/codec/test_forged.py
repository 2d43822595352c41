"""Archives forged under true checksums: fields at their extremes, small parts that would be large, false plans."""

import pickle
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest

from nelbo.ans.message import Message
from nelbo.codec import jpegxl
from nelbo.codec.blocks import _check_growth
from nelbo.codec.reading import read_archive
from nelbo.container.framing import join_parts, split_parts
from nelbo.container.records import MAX_PAYLOAD_BYTES
from nelbo.container.stream import read_block_at, read_places
from nelbo.errors import NelboError

EXTREMES = {
    "B": (0, 1, 127, 255),
    "H": (0, 1, 2**15, 2**16 - 1),
    "I": (0, 1, 2**18, 2**31 - 1, 2**31, 2**32 - 1),
    "Q": (0, 1, 2**30, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1),
    "d": (0.0, -1.0, 1e-300, 1e308, float("inf"), float("nan")),
}
HEADER_FIELDS = [(32, "I"), (36, "B"), (37, "B"), (38, "H"), (40, "H"), (42, "d"), (50, "I")]
HEADER_FIELDS += [(54 + 4 * i, "I") for i in range(6)]  # The number of parts, and their lengths.
CHAIN_FIELDS = [(0, "B"), (4, "I"), (8, "Q"), (32, "Q"), (40, "Q"), (48, "Q"), (56, "I"), (60, "I"), (64, "Q")]
INDEX_FIELDS = [(4, "I"), (8, "I"), (12, "I"), (16, "Q")]


def with_field(record, offset, kind, value):
    return record[:offset] + struct.pack(f"<{kind}", value) + record[offset + struct.calcsize(kind) :]


def with_part(header, i, part):
    parts = split_parts(header[54:], 5)
    return header[:54] + join_parts([*parts[:i], part, *parts[i + 1 :]])


def false_fields(parts):
    """Yields a name and an archive for each field at each of its extremes; the checksums are true."""
    for offset, kind in HEADER_FIELDS:
        for value in EXTREMES[kind]:
            yield f"header {offset} = {value}", replace(parts, header=with_field(parts.header, offset, kind, value))
    for offset, kind in CHAIN_FIELDS:
        for i in (0, 2):
            for value in EXTREMES[kind]:
                chains = list(parts.chains)
                chains[i] = with_field(chains[i][0], offset, kind, value), chains[i][1]
                yield f"chain {i}: {offset} = {value}", replace(parts, chains=chains)
    for offset, kind in INDEX_FIELDS:
        for value in EXTREMES[kind]:
            yield f"index {offset} = {value}", replace(parts, index=with_field(parts.index, offset, kind, value))
    for value in EXTREMES["Q"]:
        yield f"footer {value}", replace(parts, footer=struct.pack("<Q", value))
    for value in EXTREMES["I"]:
        yield f"bytes of the header = {value}", replace(parts, preamble=with_field(parts.preamble, 12, "I", value))


def varint(value):
    head = []
    while value >= 128:
        head.append(value & 127 | 128)
        value >>= 7
    return bytes([*head, value])


def bombs(parts):
    """Yields a name and an archive for each small part that would like to be a large one."""
    folders = b"a/" * 500 + b"1"

    def headed(header, **changes):
        return replace(parts, header=header, **changes)

    def listed(*runs, n_images=2**18):
        return headed(with_part(with_field(parts.header, 50, "I", n_images), 4, b"".join(runs)))

    def run(name, count, width, height):
        return varint(0) + varint(len(name)) + name + varint(count) + b"\1" + varint(width) + varint(height)

    yield "names of a kilobyte", listed(run(b"a" * 1000 + b"1", 2**18, 1, 1))
    yield "names in 500 folders", listed(run(folders, 2**16, 1, 1), n_images=2**16)
    yield "the largest images", listed(run(b"1", 2**18, 2**20, 2**10))
    for side in (0, 2**20 + 1, 2**31, 2**35 - 1):
        yield f"a side of {side}", listed(run(b"1", 1, side, 1), n_images=1)
        yield f"another side of {side}", listed(run(b"1", 1, 1, side), n_images=1)
    zeros = zlib.compress(bytes(2**27), 9)
    yield "a plan of zeros", headed(with_part(parts.header, 3, b"\0" + zeros))
    many = struct.pack("<I", 2**24 - 1) + bytes(2**26 - 4)
    yield "a plan of many parts", headed(with_part(parts.header, 3, b"\0" + zlib.compress(many, 9)))
    yield "a header of many parts", headed(parts.header[:54] + many[: 2**20])
    yield "many levels", headed(with_part(parts.header, 2, np.arange(2.0**20).tobytes()))
    for name, data in false_streams():
        yield name, replace(parts, chains=[*parts.chains[:2], (parts.chains[2][0], join_parts([data]))])
    fields = with_field(parts.chains[0][0], 4, "I", 2**25 + 1)
    yield (
        "more tiles than a chain may have",
        replace(listed(run(b"1", 2**8, 2**12, 2**12), n_images=2**8), chains=[(fields, parts.chains[0][1])]),
    )


def size_header(height, width):
    """Returns the first bytes of a JPEG XL codestream of some size, by ISO/IEC 18181-1, D.2."""
    bits = 0 | 3 << 1 | (height - 1) << 3 | 0 << 33 | 3 << 36 | (width - 1) << 38
    return b"\xff\x0a" + bits.to_bytes(9, "little")


def box(kind, data):
    return struct.pack(">I", len(data) + 8) + kind + data


def false_streams():
    """Yields JPEG XL files that claim more than the archive's entry, 3 x 5 pixels."""
    small = jpegxl.encode(np.zeros((3, 5, 4), np.uint8))
    huge = size_header(2**30, 2**30) + small[4:]
    begin = bytes.fromhex("0000000c4a584c200d0a870a") + box(b"ftyp", b"jxl \0\0\0\0jxl ")
    yield "a huge stream", huge
    yield "a huge stream in a box", begin + box(b"jxlc", huge)
    yield "a huge stream in parts before a small one", begin + box(b"jxlp", bytes(4) + huge) + box(b"jxlc", small)
    yield "a stream without end", small[:-3]
    yield "an empty stream", b""
    yield "a grey stream", jpegxl.encode(np.zeros((3, 5), np.uint8))
    yield "a stream of more bits", jpegxl.encode(np.zeros((3, 5, 4), np.uint16))


def test_false_fields_end_in_an_error_or_the_right_images(small_archive, parts_of, decoded):
    for _, parts in false_fields(parts_of(small_archive)):
        decoded(parts.sealed(), forged=True)


def test_sizes_are_read_as_the_standard_has_them():
    assert jpegxl.size_of(size_header(2**30, 7)) == (2**30, 7)


CHILD = """
import pickle, resource, sys
from io import BytesIO
from pathlib import Path
from nelbo.integer.frozen_model import FrozenModel
from nelbo.codec.reading import read_archive, recover_archive
from nelbo.errors import NelboError
cases, path, n_bytes = pickle.loads(Path(sys.argv[1]).read_bytes())
frozen, outcomes = FrozenModel.load(Path(path)), []
list(read_archive(BytesIO(cases.pop(0)), frozen)[1])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + n_bytes, used + n_bytes))
for case in cases:
    for opened in (read_archive, recover_archive):
        try:
            outcomes.append(len(list(opened(BytesIO(case), frozen)[1])))
        except NelboError as error:
            outcomes.append(str(error))
print(ascii(outcomes))
"""
STATED_LIMIT = 300 << 20  # Names, entries and their checks at their limits; a plan's 2^26 bytes, twice.


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process' memory by RLIMIT_AS and /proc")
def test_nothing_allocates_more_than_is_stated(small_archive, parts_of, small_frozen, tmp_path):
    """Every bomb, and every false field, in a process that has no more memory than docs/format.md states."""
    small_frozen.save(tmp_path / "frozen.safetensors")
    parts = parts_of(small_archive)
    fields = list(false_fields(parts))[::12]
    cases = [small_archive, *(each.fitted() for _, each in bombs(parts)), *(each.sealed() for _, each in fields)]
    (tmp_path / "cases").write_bytes(pickle.dumps((cases, str(tmp_path / "frozen.safetensors"), STATED_LIMIT)))
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "cases")], capture_output=True, text=True, timeout=300, check=False
    )
    assert child.returncode == 0, child.stderr[-500:]
    assert child.stdout.count("'") // 2 > len(cases)  # Most end in an error.
    assert "no memory" not in child.stdout


def false_plans(parts, values):
    """Yields archives whose plan has numbers at their extremes."""
    plan = split_parts(zlib.decompress(split_parts(parts.header[54:], 5)[3][1:]), 12)
    for i in range(11):
        numbers = np.frombuffer(plan[i], "<i8")
        for k in range(len(numbers) if i == 0 else min(1, len(numbers))):
            for value in values:
                changed = numbers.copy()
                changed[k if i == 0 else slice(None)] = value
                packed = zlib.compress(join_parts([*plan[:i], changed.tobytes(), *plan[i + 1 :]]))
                yield replace(parts, header=with_part(parts.header, 3, b"\0" + packed))


@pytest.mark.parametrize(
    "values", [(2**46 - 1,), pytest.param((-(2**46) + 1, -1, 0, 1, 2**46), marks=pytest.mark.slow)]
)
def test_false_plans_end_in_an_error_or_the_right_images(small_archive, parts_of, decoded, values):
    for parts in false_plans(parts_of(small_archive), values):
        decoded(parts.fitted(), forged=True)


@pytest.mark.parametrize("gammas", [(-1e308, 1e308), (0.5, 1e4), (0.5, float("nan")), (0.5, 0.5), (2.0, 0.5), (0.5,)])
def test_false_levels_are_refused(small_archive, parts_of, decoded, gammas):
    parts = parts_of(small_archive)
    assert decoded(replace(parts, header=with_part(parts.header, 2, np.array(gammas).tobytes())).fitted())[0] is None


def test_a_false_payload_is_found(small_archive, parts_of, decoded):
    parts, rng = parts_of(small_archive), np.random.default_rng(0)
    fields, payload = parts.chains[0]
    for _ in range(10):
        at = int(rng.integers(len(payload)))
        bad = payload[:at] + bytes([payload[at] ^ 1 << int(rng.integers(8))]) + payload[at + 1 :]
        assert decoded(replace(parts, chains=[(fields, bad), *parts.chains[1:]]).fitted()) == (None, 3)


def test_a_message_that_grows_while_it_is_decoded_is_refused(small_archive):
    """A plan can be such that a tile costs less than no bits: without a limit, 2^25 tiles would fill the memory."""

    chain = read_block_at(
        BytesIO(small_archive), *(lambda found: (found[0], found[1][0]))(read_places(BytesIO(small_archive)))
    )
    words = np.zeros(len(chain.payload) // 4 + 300, np.uint32)
    with pytest.raises(NelboError, match="less than no bits"):
        _check_growth(chain, Message(words, 2**32, 2**32, 0))
    _check_growth(chain, Message(words[:-200], 2**32, 2**32, 0))


def test_a_payload_longer_than_the_limit_is_not_read(small_archive, parts_of):
    class Endless(BytesIO):
        def read(self, n: int | None = -1, /):
            return super().read(n) or bytes(n or 0)

    parts = parts_of(small_archive)
    fields = with_field(parts.chains[0][0], 64, "Q", MAX_PAYLOAD_BYTES + 1)
    data = replace(parts, chains=[(fields, b"")]).sealed()
    with pytest.raises(NelboError, match="the limit is"):
        list(read_archive(Endless(data))[1])
