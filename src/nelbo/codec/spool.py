"""What was made of files while they were looked through, kept on the disk until it is written."""

from collections.abc import Callable
from tempfile import TemporaryFile
from threading import Lock
from weakref import finalize


class Spool:
    """Byte strings in a temporary file, which goes with the last of them."""

    def __init__(self) -> None:
        self._stream, self._end, self._lock = TemporaryFile(), 0, Lock()  # noqa: SIM115
        finalize(self, self._stream.close)

    def keep(self, data: bytes) -> Callable[[], bytes]:
        """Keeps a byte string; returns what reads it."""
        with self._lock:
            start = self._end
            self._stream.seek(start)
            self._stream.write(data)
            self._end += len(data)

        def read() -> bytes:
            with self._lock:  # By way of this spool, which therefore lives as long as what it keeps.
                self._stream.seek(start)
                return self._stream.read(len(data))

        return read
