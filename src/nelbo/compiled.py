"""Loops compiled to machine code by numba, and how threads share them."""

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
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


_pool = ThreadPoolExecutor(thread_name_prefix="nelbo-loops")


def share(n_items: int, n_threads: int, work: Callable[[int, int], None]) -> None:
    """Runs compiled work on all items, shared between threads, of which the caller's is one.

    Args:
        n_items: How many items there are.
        n_threads: How many threads work, if there are as many items.
        work: Called with the first item and the one after the last.
    """
    n_parts = max(1, min(n_threads, n_items))
    (first, *others) = pairwise([n_items * i // n_parts for i in range(n_parts + 1)])
    futures = [_pool.submit(work, *part) for part in others]
    work(*first)
    for future in futures:
        future.result()
