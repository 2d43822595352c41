"""Loops compiled to machine code by numba."""

import inspect
from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:  # noqa: ANN401
    """Returns a function of numbers and arrays compiled on its first call, and kept on disk where that can be written.

    What wraps the function is taken off first: tests wrap all of nelbo in type checks, which cannot be compiled.
    """
    plain = inspect.unwrap(function)
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(plain)
    except RuntimeError:  # Neither __pycache__ nor a home folder: compiled anew in each process.
        return njit(nogil=True, error_model="numpy")(plain)
