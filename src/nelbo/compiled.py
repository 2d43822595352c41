"""Loops compiled to machine code by numba."""

import inspect
from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:  # noqa: ANN401
    """Returns a function of numbers and arrays compiled on its first call, and kept on disk for the next process.

    What wraps the function is taken off first: tests wrap all of nelbo in type checks, which cannot be compiled.
    """
    return njit(cache=True)(inspect.unwrap(function))
