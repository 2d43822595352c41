"""Loops compiled to machine code by numba."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from numba import njit

_EXACT: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def compiled(function: Callable[..., Any], options: Mapping[str, Any] = _EXACT) -> Any:  # noqa: ANN401
    """Returns a function of numbers and arrays compiled on its first call, and kept on disk where that can be written.

    What wraps the function is taken off first: tests wrap all of nelbo in type checks, which cannot be compiled.
    """
    plain = inspect.unwrap(function)
    try:
        return njit(cache=True, **options)(plain)
    except RuntimeError:  # Neither __pycache__ nor a home folder: compiled anew in each process.
        return njit(**options)(plain)


def compiled_fused(function: Callable[..., Any]) -> Any:  # noqa: ANN401
    """Returns a function compiled like :func:`compiled`, where a product may be rounded together with a sum.

    A few roundings fewer, faster, and not the same bits on every processor: never for the codec.
    """
    return compiled(function, _EXACT | {"fastmath": {"contract"}})
