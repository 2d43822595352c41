"""Files and folders that appear whole or not at all: written under a temporary name beside the target, then renamed."""

import errno
import json
import os
import platform
import re
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp, mkstemp
from typing import Any

from nelbo.errors import NelboError

_HOST = sha256(platform.node().encode()).hexdigest()[:8]
_TEMPORARY = re.compile(rf"\..*\.nelbo-{_HOST}-([0-9]+)-.*", re.DOTALL)
_OLD = ".old"  # What a folder that was replaced is called meanwhile: it is no draft, and is kept.
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path that becomes ``path`` when the block ends without an error, replacing what was there.

    Raises:
        NelboError: If the folder cannot be written, or there is a folder or a device of that name.
    """
    _check_replaceable(path)
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = mkstemp(prefix=_prefix(path), suffix=path.suffix, dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with _spacious(path):
            yield temporary
            _flush(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON, whole or not at all; what is no finite number, which JSON has not, is null.

    Raises:
        NelboError: If it cannot be written.
    """
    finite = json.loads(json.dumps(content), parse_constant=lambda _: None)
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(finite, indent=2) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes ``path`` when the block ends without an error, replacing what was there.

    Raises:
        NelboError: If the parent folder cannot be written, or there is a file of that name.
    """
    if path.is_file():
        raise NelboError(f"{path} is a file: choose another place for the folder")
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(mkdtemp(prefix=_prefix(path), dir=path.parent))
    try:
        with _spacious(path):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    file.chmod(0o666 & ~_umask())
                    _flush(file)
        temporary.chmod(0o777 & ~_umask())
        _replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _prefix(path: Path) -> str:
    """Returns how a temporary name begins: it says which process of which machine will rename it.

    What killed processes left in that folder goes first.
    """
    _clean(path.parent.resolve())
    return f".{path.name[:32]}.nelbo-{_HOST}-{os.getpid()}-"


@cache
def _clean(folder: Path) -> None:
    """Removes temporary files and folders of dead processes of this machine, once a folder."""
    for path in folder.glob(f".*.nelbo-{_HOST}-*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or path.name.endswith(_OLD) or _is_alive(int(match[1])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # There, asking by a signal would end it.
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # It is another user's.
        return True
    return True


def check_writable(path: Path) -> None:
    """Finds before the work, rather than after it, that a file could not be written; touches nothing.

    Raises:
        NelboError: If the nearest folder above it that exists is no folder, or no writable one, or if there is a
            folder or a device of that name.
    """
    _check_replaceable(path)
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise NelboError(f"cannot write {path}: {nearest} is not a folder that can be written to; choose another place")


def _check_replaceable(path: Path) -> None:
    if path.is_dir():
        raise NelboError(f"{path} is a folder: choose another place for the file")
    if path.exists() and not path.is_file():
        raise NelboError(f"{path} is no regular file, which would be lost: choose another place for the file")


def _replace_folder(new: Path, path: Path) -> None:
    """Moves what was at a path aside, the new folder in, and only then removes the old."""
    old = new.with_name(f"{new.name}{_OLD}")
    if path.exists():
        path.replace(old)
    new.replace(path)
    _flush(path.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NelboError(f"cannot write {path}: {error.strerror}; choose another place") from None


@contextmanager
def _spacious(path: Path) -> Iterator[None]:
    """Says in one line that the disk is full, as operating system, safetensors and PyTorch say it each in its way."""
    try:
        yield
    except Exception as error:
        is_full = isinstance(error, OSError) and error.errno in _FULL
        if not is_full and not any(text in str(error) for text in ("os error 28", "os error 27", "inline_container")):
            raise
        raise NelboError(f"cannot write {path}: the disk is full or a limit is reached; choose another place") from None


def _flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Lets Ctrl-C wait for the end of what is inside, which should take no longer than people notice.

    Python tells the main thread alone of it, so in others there is nothing to wait.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:  # None is another program's own.
        yield
        return
    waiting: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting:
            signal.raise_signal(signal.SIGINT)
