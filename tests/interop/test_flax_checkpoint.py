import math
import os
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nelbo.errors import NelboError
from nelbo.interop.flax_checkpoint import read_arrays


def packb(tree) -> bytes:
    return msgpack.packb(tree)  # pyright: ignore[reportReturnType]


def extension(shape, name, content, code=1):
    return msgpack.ExtType(code, packb((shape, name, content)))


def array(values, code=1):
    return extension(values.shape, values.dtype.name, values.tobytes(), code)


def chunked(values, size):
    flat = values.reshape(-1)
    chunks = {str(i): array(flat[k : k + size]) for i, k in enumerate(range(0, len(flat), size))}
    shape = {str(i): n for i, n in enumerate(values.shape)}
    return {"__msgpack_chunked_array__": True, "shape": shape, "chunks": chunks}


def write(folder, content):
    path = Path(folder) / "checkpoint.flax"
    path.write_bytes(content if isinstance(content, bytes) else packb(content))
    return path


VALUES = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize("values", [VALUES, VALUES[0, 0, 0], VALUES[:0], VALUES.astype("f2"), VALUES.astype("f8")])
def test_arrays_come_back(tmp_path, values):
    path = write(tmp_path, {"ema_params": {"a.0": {"kernel": array(values)}, "b": array(values, code=3)}})
    arrays = read_arrays(path, "ema_params")
    assert list(map(str, sorted(arrays))) == ["a.0/kernel", "b"]
    for read in arrays.values():
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, values.astype("f4"))


def test_bfloat16_is_read_by_its_bits(tmp_path):
    values = torch.randn(50, generator=torch.Generator().manual_seed(0)).bfloat16()
    content = values.view(torch.int16).numpy().tobytes()
    path = write(tmp_path, {"ema_params": {"a": extension([50], "bfloat16", content)}})
    np.testing.assert_array_equal(read_arrays(path, "ema_params")["a"], values.float().numpy())


@pytest.mark.parametrize("size", [1, 7, 24, 100])
def test_chunks_are_joined(tmp_path, size):
    path = write(tmp_path, {"ema_params": {"a": {"kernel": chunked(VALUES, size)}}})
    np.testing.assert_array_equal(read_arrays(path, "ema_params")["a/kernel"], VALUES)


def test_other_parts_are_skipped_whatever_they_hold(tmp_path):
    other = {
        "0": None,
        "1": [1, 2.5, "text", b"bytes"],
        "2": msgpack.ExtType(2, packb((1.0, 2.0))),
        "3": {},
    }
    tree = {"opt_state": other, "ema_params": {"a": array(VALUES)}, "params": {"a": array(VALUES)}, "step": 3}
    assert list(read_arrays(write(tmp_path, tree), "ema_params")) == ["a"]


WHOLE = packb({"ema_params": {"a": {"kernel": array(VALUES)}}, "step": array(np.int32(7))})
LEAVES = {
    "no array": 3,
    "unknown extension": msgpack.ExtType(9, b"abc"),
    "complex": msgpack.ExtType(2, packb((1.0, 2.0))),
    "empty extension": msgpack.ExtType(1, b""),
    "no triple": msgpack.ExtType(1, packb([1, 2])),
    "integers": extension([2], "int32", bytes(8)),
    "objects": extension([2], "object", bytes(16)),
    "too few bytes": extension([2, 2], "float32", bytes(15)),
    "huge shape": extension([2**62, 4], "float32", bytes(16)),
    "huge and empty shape": extension([0, 2**63], "float32", b""),
    "many axes": extension([1] * 60, "float32", bytes(4)),
    "negative axis": extension([-1, -4], "float32", bytes(16)),
    "fractional axis": extension([1.0], "float32", bytes(4)),
    "boolean axis": extension([True], "float32", bytes(4)),
    "text for bytes": extension([1], "float32", "abcd"),
    "chunk missing": {**chunked(VALUES, 5), "chunks": {"1": array(VALUES.reshape(-1))}},
    "chunk too short": {**chunked(VALUES, 5), "chunks": {"0": array(VALUES[0].reshape(-1))}},
    "chunk no array": {**chunked(VALUES, 5), "chunks": {"0": {"0": 1}}},
    "chunk shape huge": {**chunked(VALUES, 5), "shape": {"0": 2**63, "1": 2**63}},
    "chunk shape of text": {**chunked(VALUES, 5), "shape": "3"},
}
FILES = {
    "empty": b"",
    "no msgpack": b"\xc1" * 100,
    "text": b"hello, world\n",
    "a list": packb([1, 2, 3]),
    "a list of stated length 4e9": b"\x81\xaaema_params\xdd\xff\xff\xff\xff\x01",
    "a map of stated length 4e9": b"\xdf\xff\xff\xff\xff\xaaema_params\x80",
    "an extension of stated length 4e9": b"\x81\xaaema_params\xc9\xff\xff\xff\xff\x01ab",
    "deep maps": b"\x81\xaaema_params" + b"\x81\xa1a" * 1000 + b"\x01",
    "deeper maps": b"\x81\xaaema_params" + b"\x81\xa1a" * 5000 + b"\x01",
    "lists in an array": packb({"ema_params": msgpack.ExtType(1, b"\x91" * 5000)}),
    "no text in a key": b"\x81\xa2\xff\xfe\x01",
    "a key that is a map": b"\x81\x81\xa1a\x01\x01",
    "more bytes after the end": WHOLE + b"\x00",
    "no such part": packb({"params": {"a": array(VALUES)}}),
    **{name: packb({"ema_params": {"a": leaf}}) for name, leaf in LEAVES.items()},
}


def refusal(path):
    with pytest.raises(NelboError) as caught:
        read_arrays(path, "ema_params")
    message = str(caught.value)
    assert message.startswith(str(path))
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_or_foreign_file_is_refused_in_one_line(tmp_path, name):
    assert len(refusal(write(tmp_path, FILES[name]))) < 500


@pytest.mark.parametrize("n_bytes", range(1, len(WHOLE), 3))
def test_a_truncated_file_is_refused(tmp_path, n_bytes):
    assert "ends too early" in refusal(write(tmp_path, WHOLE[:n_bytes]))


@given(content=st.binary(max_size=200))
def test_random_bytes_never_fail_otherwise(tmp_path_factory, content):
    path = write(tmp_path_factory.getbasetemp(), content)
    try:
        read_arrays(path, "ema_params")
    except NelboError:
        pass
    else:
        pytest.fail("random bytes were taken for a checkpoint")


@given(position=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read_as_arrays(tmp_path_factory, position, value):
    changed = WHOLE[:position] + bytes([value]) + WHOLE[position + 1 :]
    path = write(tmp_path_factory.getbasetemp(), changed)
    try:
        arrays = read_arrays(path, "ema_params")
    except NelboError:
        return
    assert sum(math.prod(values.shape) for values in arrays.values()) <= VALUES.size


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    assert "No such file" in refusal(tmp_path / "absent.flax")
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs permissions that bind")
def test_an_unreadable_file_is_named(tmp_path):
    path = write(tmp_path, WHOLE)
    path.chmod(0)
    assert "Permission denied" in refusal(path)
