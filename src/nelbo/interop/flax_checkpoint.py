"""Flax checkpoints: the arrays in a msgpack file, read without Flax, pickle or trust in the sizes it states.

The file is one msgpack map. Its leaves are extension type 1, an array packed as (shape, type name, bytes), or
3, the same for a scalar; an array above a gigabyte is a map of flat chunks. Only the part asked for is ever
built: the rest, such as an optimiser's state, is skipped as it streams past.

References:
    The format: https://github.com/google/flax/blob/main/flax/serialization.py
"""

import math
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np
from jaxtyping import Float32

from nelbo.errors import NelboError

_ARRAY, _SCALAR = 1, 3  # msgpack extension types
_CHUNKED = "__msgpack_chunked_array__"
_TYPES = {"bfloat16": "<u2", "float16": "<f2", "float32": "<f4", "float64": "<f8"}  # bfloat16 by its bits
_MAX_DIMS = 32  # of an array, and entries of a list: msgpack allocates a list by its stated length


def read_arrays(path: Path, part: str) -> dict[str, Float32[np.ndarray, "..."]]:
    """Returns the arrays of one part of a checkpoint in float32, by their path such as ``conv_in/kernel``.

    Args:
        path: The checkpoint file.
        part: A key of the outermost map, such as ``ema_params``.

    Raises:
        NelboError: If the file cannot be read, is damaged or no Flax checkpoint, or lacks the part.
    """
    try:
        with path.open("rb") as stream:
            parts = _read_parts(stream, path.stat().st_size, part)
        arrays = _flatten(parts[part])
    except OSError as error:
        raise NelboError(f"{path} cannot be read: {error.strerror}") from None
    except KeyError:
        raise NelboError(f"{path} has no {part}: expected a Flax training state, saved with averages") from None
    except msgpack.OutOfData:
        raise NelboError(f"{path} ends too early: copy the checkpoint again") from None
    except (ValueError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise NelboError(f"{path} is damaged or no Flax checkpoint ({reason}): copy it again") from None
    return arrays


def _read_parts(stream: BinaryIO, n_bytes: int, part: str) -> dict[str, Any]:
    """Returns the outermost map with the one part, if it is there, and nothing of the others."""
    unpacker = msgpack.Unpacker(stream, ext_hook=_extension, max_buffer_size=max(n_bytes, 1), max_array_len=_MAX_DIMS)
    parts: dict[str, Any] = {}
    for _ in range(unpacker.read_map_header()):
        if unpacker.unpack() == part:
            parts[part] = unpacker.unpack()
        else:
            unpacker.skip()
    if unpacker.tell() != n_bytes:
        raise ValueError(f"{n_bytes - unpacker.tell()} bytes follow its end")
    return parts


def _extension(code: int, data: bytes) -> Float32[np.ndarray, "..."]:
    if code not in (_ARRAY, _SCALAR):
        raise ValueError(f"a value of extension type {code} among the arrays")
    match msgpack.unpackb(data, max_array_len=_MAX_DIMS):
        case [list(shape), str(name), bytes(content)] if name in _TYPES:
            return _array(shape, name, content)
        case _:
            raise ValueError("an array that is not a shape, a floating-point type and bytes")


def _array(shape: list[Any], name: str, content: bytes) -> Float32[np.ndarray, "..."]:
    if not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise ValueError(f"an array of shape {shape!r:.60}")
    stored = np.dtype(_TYPES[name])
    if math.prod(shape) * stored.itemsize != len(content):
        raise ValueError(f"an array of shape {shape!r:.60} and type {name} in {len(content)} bytes")
    values = np.frombuffer(content, stored).reshape(shape)
    if name == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _flatten(tree: object) -> dict[str, Float32[np.ndarray, "..."]]:
    """Returns the leaves of nested maps by their path; a loop, as a file may nest deeper than Python."""
    arrays, todo = {}, [("", tree)]
    while todo:
        name, node = todo.pop()
        if isinstance(node, dict) and _CHUNKED in node:
            arrays[name] = _joined(node)
        elif isinstance(node, dict):
            todo += [(f"{name}/{key}" if name else str(key), child) for key, child in node.items()]
        elif isinstance(node, np.ndarray):
            arrays[name] = node
        else:
            raise ValueError(f"{name!r:.80} is no array")
    return arrays


def _joined(chunked: dict[str, Any]) -> Float32[np.ndarray, "..."]:
    try:
        shape, chunks = _in_order(chunked["shape"]), _in_order(chunked["chunks"])
        if not all(isinstance(chunk, np.ndarray) for chunk in chunks):
            raise TypeError
        return np.concatenate(chunks).reshape(shape)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError("chunks that make no array") from None


def _in_order(numbered: dict[str, Any]) -> list[Any]:
    return [numbered[str(i)] for i in range(len(numbered))]
