"""Processes that code for this one: each has the network and one thread, and what they code is the same as here."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from queue import Empty
from typing import Any, TypeVar

from nelbo.codec.latent_coder import ChainCoder
from nelbo.container.header import Header
from nelbo.runtime.progress import Advance

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_MANY_CALLS = 6000
_state: dict[str, Any] = {}  # Of a worker: what its tasks share.


def n_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_long(n_tiles: int, n_calls: int) -> bool:
    """Returns whether so many tiles, with so many network calls each, take longer than processes take to start."""
    return n_tiles * n_calls >= _MANY_CALLS


class Workers:
    """Processes that run tasks on a coder and a header of their own.

    Args:
        pool: The processes.
        told: What they say of their progress.
        n: How many there are.
    """

    def __init__(self, pool: ProcessPoolExecutor, told: Any, n: int) -> None:  # noqa: ANN401
        self._pool, self._told, self.n = pool, told, n

    def map(
        self,
        task: Callable[[ChainCoder, Header, _In, Advance], _Out],
        items: Iterable[_In],
        progress: Advance,
    ) -> Iterator[_Out]:
        """Yields a task's result for each item, in order; about as many items as there are workers are in memory."""
        waiting: deque[Future[_Out]] = deque()
        for item in items:
            waiting.append(self._pool.submit(_run, task, item))
            while len(waiting) > self.n:
                yield self._result(waiting.popleft(), progress)
        while waiting:
            yield self._result(waiting.popleft(), progress)

    def _result(self, future: "Future[_Out]", progress: Advance) -> _Out:
        while not future.done():
            try:
                progress(self._told.get(timeout=0.2))
            except Empty:
                continue
        while True:
            try:
                progress(self._told.get_nowait())
            except Empty:
                return future.result()


@contextmanager
def workers(coder: ChainCoder, header: Header, n: int) -> Iterator[Workers]:
    """Yields processes that code with the same network, plan and header as this one."""
    context = get_context("spawn")
    told = context.Queue()
    pool = ProcessPoolExecutor(n, context, _start, (coder.portable(), header, told))
    try:
        yield Workers(pool, told, n)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        told.close()


def _start(portable: Any, header: Header, told: Any) -> None:  # noqa: ANN401
    import signal

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The first process ends the others.
    torch.set_num_threads(1)
    _state.update(coder=ChainCoder.of_portable(portable), header=header, told=told)


def _run(task: Callable[[ChainCoder, Header, _In, Advance], _Out], item: _In) -> _Out:
    return task(_state["coder"], _state["header"], item, _state["told"].put)
