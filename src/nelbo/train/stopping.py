"""Ctrl-C and SIGTERM while training: the run stops after a whole step, in every process."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from nelbo.runtime.processes import World

_STDERR = 2


@contextmanager
def asked_to_stop(world: World) -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether a process was interrupted, so that the run can stop after a whole step.

    All processes ask it after each step and hear the same.
    """
    signals: list[int] = []
    names = (signal.SIGINT, signal.SIGTERM)
    previous = {name: signal.getsignal(name) for name in names}

    def on_signal(number: int, _: object) -> None:
        signals.append(number)
        if world.is_first:
            os.write(_STDERR, b"\nstopping after this step; once more stops at once\n")  # Safe in a handler.
        signal.signal(number, previous[signal.Signals(number)])  # A second one does not wait.

    for name in names:
        signal.signal(name, on_signal)
    try:
        yield lambda: bool(world.total(torch.tensor(float(len(signals)), device=world.device)))
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
