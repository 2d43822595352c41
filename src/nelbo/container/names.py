"""Names of members: paths that stay inside the output folder, on every system (version 1) or on this one (version 2).

A name is a path with ``/``. In memory it is text as Python has names of files: bytes that are not UTF-8 are lone
surrogates (:pep:`383`), and version 2 stores the bytes.
"""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath

from nelbo.errors import NelboError

MAX_NAME_BYTES = 1024
MAX_LONG_NAME_BYTES = 1 << 16  # Of version 2, which stores what any file system has.
_DEVICES = {"con", "prn", "aux", "nul", "clock$", "conin$", "conout$"} | {
    device + digit for device in ("com", "lpt") for digit in "0123456789¹²³"
}


def safe_member_path(name: str) -> PurePosixPath:
    """Returns the path of a member of a version 1 archive below the output folder, the same on every system.

    Raises:
        NelboError: If the name is absolute, climbs out with ``..``, names a drive or a device of Windows, or holds
            a backslash or a character that is not for print.
    """
    check_name(name, set())
    return PurePosixPath(name)


def check_name(name: str, folders: set[str]) -> None:
    """Checks a name of version 1 from its last part up to the first folder found safe before, and adds its folders.

    So a list whose every name has hundreds of folders takes no longer than its names.

    Raises:
        NelboError: If the name is not safe.
    """
    folder, part, checked = name, "", []
    problem = f"has more than {MAX_NAME_BYTES} bytes" if len(name_bytes(name)) > MAX_NAME_BYTES else None
    while not problem and folder not in folders:
        checked.append(folder)
        folder, slash, part = folder.rpartition("/")
        problem = _problem_of(part)
        if not slash:
            break
    if problem:
        raise NelboError(
            f"{ascii(name)[:80]} is no safe name for a member of an archive: it {problem}; rename the file"
        )
    folders.update(checked[1:])


def check_any_name(name: str, folders: set[str]) -> None:
    """Checks a name of version 2: whatever a file system holds, as long as it is a path below a folder.

    Raises:
        NelboError: If it is absolute, has an empty part, ``.`` or ``..``, or NUL, or is too long.
    """
    parts = name.split("/") if len(name) <= MAX_LONG_NAME_BYTES else [""]
    if any(part in ("", ".", "..") or "\0" in part for part in parts) or len(name_bytes(name)) > MAX_LONG_NAME_BYTES:
        raise NelboError(f"{ascii(name)[:80]} is no path below a folder: the file is damaged")
    while (name := name.rpartition("/")[0]) and name not in folders:
        folders.add(name)


def are_portable(names: Sequence[str]) -> bool:
    """Returns whether version 1 holds these names."""
    folders: set[str] = set()
    try:
        for name in names:
            check_name(name, folders)
    except NelboError:
        return False
    return True


def name_bytes(name: str) -> bytes:
    """Returns the bytes of a name."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # Other surrogates, which names of Windows may hold.
        return name.encode("utf-8", "surrogatepass")


def name_of(data: bytes) -> str:
    """Returns the name that some bytes are, the inverse of :func:`name_bytes`."""
    return data.decode("utf-8", "surrogateescape")


def _problem_of(part: str) -> str | None:
    """Returns what makes a part of a name unsafe, for a sentence; None if nothing does."""
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in part):
        return "holds a control character"
    if "\\" in part:
        return "holds a backslash"
    if part in ("", ".", ".."):
        return "is absolute, empty or climbs out of its folder"
    if re.match("[A-Za-z]:", part):
        return "names a drive"
    if part[-1] in " .":
        return "has a part that ends with a dot or a space"
    if re.split("[.:]", part)[0].rstrip(" ").casefold() in _DEVICES:
        return "names a device"
    return None
