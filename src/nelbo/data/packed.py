"""Lists of bytes and numbers as bytes: MessagePack, https://github.com/msgpack/msgpack/blob/master/spec.md."""

from collections.abc import Sequence
from typing import Any

import msgpack


def packed(values: Sequence[object]) -> bytes:
    """Returns a list of bytes, numbers and lists of them as bytes."""
    data = msgpack.packb(values)
    assert data is not None, "nothing is written to a stream"
    return data


def unpacked(data: bytes) -> Any:  # noqa: ANN401
    """Returns the list that was packed, the inverse of :func:`packed`.

    Raises:
        ValueError: If the bytes are none.
    """
    return msgpack.unpackb(data, use_list=True)
