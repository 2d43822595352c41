"""How far a long task is: a bar that moves every second on a terminal, a line a minute elsewhere."""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, runtime_checkable

WINDOW = 60.0  # seconds over which the speed is averaged
USUAL_WIDTH, BAR = 80, 12  # characters


@runtime_checkable
class Stream(Protocol):
    """What lines are written to: standard error, for example."""

    def write(self, text: str, /) -> object: ...  # noqa: D102
    def flush(self) -> object: ...  # noqa: D102
    def isatty(self) -> bool: ...  # noqa: D102
    def fileno(self) -> int: ...  # noqa: D102


class Meter:
    """Says how far a task is, how fast it goes and how long it will take, as long as the block lasts.

    On a terminal this is a bar that is drawn again every second, whether or not the task has moved. Elsewhere it is
    one line a minute, so a task of less than a minute says nothing.

    Args:
        total: How many units there are.
        unit: What is counted, in the singular: ``image``, ``call``, ``tile``.
        initial: How many are done already.
        quiet: Whether to say nothing at all.
        stream: Where to; None for standard error.
        seconds: Time between two signs of life; None for 1 on a terminal and 60 elsewhere.
        also: Called with each line, on a terminal with one a minute: a log file, for example.
        clock: The time in seconds.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        initial: int = 0,
        quiet: bool = False,
        stream: Stream | None = None,
        seconds: float | None = None,
        also: Callable[[str], object] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.units, self.n, self.quiet = total, f"{unit}s", initial, quiet
        self.stream = sys.stderr if stream is None else stream
        self.is_terminal = self.stream.isatty()
        self._seconds = (1.0 if self.is_terminal else 60.0) if seconds is None else seconds
        self._also, self._clock, self._note = also, clock, ""
        self._started = self._last_line = clock()
        self._seen = deque([(self._started, initial)])
        self._is_drawn = False
        self._lock, self._over = threading.RLock(), threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> "Meter":
        """Starts to give signs of life."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops; a bar stays on the screen as it was at the end, and an interrupted task says where it stopped."""
        self._over.set()
        self._thread.join()
        with self._lock:
            if self._is_drawn:
                self._draw()
                self._write("\n")
                self._is_drawn = False
            if kind is KeyboardInterrupt and not self.quiet:
                self._write(f"stopped at {self.n} of {self.total} {self.units}\n")

    def advance(self, n: int) -> None:
        """Counts units that are done."""
        with self._lock:
            self.n += n
            now = self._clock()
            self._seen.append((now, self.n))
            while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW:
                self._seen.popleft()

    def note(self, text: str) -> None:
        """Sets what stands behind the numbers."""
        self._note = text

    def say(self, text: str) -> None:
        """Writes a line of its own, above the bar."""
        with self._lock:
            self._also(text)
            if self.quiet:
                return
            self._write((f"\r{' ' * (self._width() - 1)}\r" if self._is_drawn else "") + text + "\n")
            if self._is_drawn:
                self._draw()

    def line(self) -> str:
        """Returns the state in words: how many, how fast, how long it will take, and the note."""
        return ", ".join(self._parts())

    def _parts(self, short: bool = False) -> list[str]:
        """Returns the parts of a line; a short one has the note first and no count, which its share stands for."""
        speed, left = self.speed(), self.seconds_left()
        times = []
        if speed > 0:
            times.append(f"{speed:.3g} {self.units}/s" if speed >= 1 else f"{1 / speed:.3g} s each")
        if self.n >= self.total or left is None:
            times.append(f"after {duration(self._clock() - self._started)}")
        else:
            times.append(f"{duration(left)} left")
        note = [self._note] if self._note else []
        return [*note, *times] if short else [f"{self.n} of {self.total} {self.units}", *times, *note]

    def speed(self) -> float:
        """Returns the units a second over the last minute, or since the start; 0 before the first is done."""
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def seconds_left(self) -> float | None:
        """Returns how long the rest will take; None before the speed is known."""
        speed, since = self.speed(), self._clock() - self._seen[-1][0]
        return max((self.total - self.n) / speed - since, 0.0) if speed > 0 else None

    def _live(self) -> None:
        while not self._over.wait(self._seconds):
            self.tick()

    def tick(self) -> None:
        """Gives a sign of life."""
        with self._lock:
            if not self.is_terminal or self._clock() - self._last_line >= 60:
                self._last_line = self._clock()
                self._also(self.line())
            if self.quiet:
                return
            if self.is_terminal:
                self._draw()
            else:
                self._write(self.line() + "\n")

    def _draw(self) -> None:
        share, width = min(self.n / max(self.total, 1), 1.0), self._width() - 1
        bar = f"|{'#' * round(BAR * share):-<{BAR}}| "
        ways = (bar + self.line(), self.line(), ", ".join(self._parts(short=True)))  # As much as there is room for.
        text = next((way for way in ways if len(way) + 5 <= width), ways[-1])
        self._write("\r" + f"{share:4.0%} {text}"[:width].ljust(width))
        self._is_drawn = True

    def _width(self) -> int:
        """Returns the terminal's columns; some terminals say that they have none."""
        try:
            columns = os.get_terminal_size(self.stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        return columns if columns > 20 else USUAL_WIDTH

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):  # The reader has left: the task goes on without one.
            self.quiet = True


def duration(seconds: float) -> str:
    """Returns a time for people.

    Example:
        >>> [duration(s) for s in (8.4, 200.0, 11000.0, 200000.0)]
        ['8 s', '3 min 20 s', '3 h 3 min', '2 d 7 h']
    """
    whole = round(seconds)
    for (large, name), (small, other) in _UNITS:
        if whole >= large:
            return f"{whole // large} {name} {whole % large // small} {other}"
    return f"{whole} s"


_UNITS = (((86400, "d"), (3600, "h")), ((3600, "h"), (60, "min")), ((60, "min"), (1, "s")))
