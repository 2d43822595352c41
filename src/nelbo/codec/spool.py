"""What was made of files while they were looked through, kept on the disk until it is written."""

from collections.abc import Callable
from tempfile import TemporaryFile, gettempdir
from threading import Lock
from weakref import finalize

from nelbo.errors import NelboError


class SpoolError(NelboError):
    """The folder for temporary files takes no more: no file that is read is to blame."""


class Spool:
    """Byte strings in a temporary file, which goes with the last of them."""

    def __init__(self) -> None:
        # Without a buffer, so that a full disk is noticed where it is written, not where it is read or closed.
        self._stream, self._end, self._lock = TemporaryFile(buffering=0), 0, Lock()  # noqa: SIM115
        finalize(self, self._stream.close)

    def keep(self, data: bytes) -> Callable[[], bytes]:
        """Keeps a byte string; returns what reads it.

        Raises:
            SpoolError: If there is no space for it.
        """
        with self._lock:
            start = self._end
            self._stream.seek(start)
            self._write(data)
            self._end += len(data)

        def read() -> bytes:
            with self._lock:  # By way of this spool, which therefore lives as long as what it keeps.
                self._stream.seek(start)
                return self._stream.read(len(data))

        return read

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._stream.write(rest) :]
        except OSError as error:
            raise SpoolError(
                f"temporary files do not fit into {gettempdir()} ({error.strerror}): set TMPDIR to a larger place"
            ) from None
