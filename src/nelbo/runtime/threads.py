"""Compiled loops on several threads, PyTorch's own where they can be had.

The threads of OpenMP wait for their next piece of work in a busy loop. A second pool beside them would share the cores
with that loop, and on as many threads as cores nothing is gained (docs/log.md).
"""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch

_Entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_Body = Callable[[object], None]
_Parallel = Callable[[_Body, int], object]

_pool = ThreadPoolExecutor(thread_name_prefix="nelbo-loops")


def share(n_items: int, work: Callable[[int, int], object]) -> None:
    """Runs compiled work on all items, shared between as many threads as PyTorch uses, of which the caller's is one.

    Args:
        n_items: How many items there are.
        work: Called with the first item and the one after the last; what it raises is raised here.
    """
    n_threads = torch.get_num_threads()
    n_parts = max(1, min(n_threads, n_items))
    remaining = iter(list(pairwise(n_items * i // n_parts for i in range(n_parts + 1))))
    errors: list[BaseException] = []

    def body(_: object) -> None:
        try:
            for start, stop in remaining:  # Each thread takes what no other has taken, however many there are.
                work(start, stop)
        except BaseException as error:  # A thread that is not Python's would drop it.
            errors.append(error)

    if n_parts == 1:
        body(None)
    else:
        (_openmp() or _by_pool)(body, n_threads)  # All of them: OpenMP of GNU ends those that a smaller team leaves.
    if errors:
        raise errors[0]


@cache
def _openmp() -> _Parallel | None:
    """Returns what runs a function once on each of OpenMP's threads, None where PyTorch has another OpenMP or none."""
    try:
        parallel = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes, parallel.restype = [_Entry, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return lambda body, n_threads: parallel(_Entry(body), None, n_threads, 0)


def _by_pool(body: _Body, n_threads: int) -> None:
    futures = [_pool.submit(body, None) for _ in range(n_threads - 1)]
    body(None)
    for future in futures:
        future.result()
