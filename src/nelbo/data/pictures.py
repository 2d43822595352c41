"""Images as PNG files: single ones, and many as a grid."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from nelbo.runtime.atomic import new_file


def save_png(image: UInt8[Tensor, "c h w"], path: Path) -> None:
    """Writes one grey or RGB image as PNG, whole or not at all."""
    with new_file(path) as temporary:
        Image.fromarray(_as_array(image)).save(temporary, format="PNG")


def save_grid(images: UInt8[Tensor, "n c h w"], path: Path) -> None:
    """Writes images as one PNG, in reading order, in a nearly square grid with a one-pixel gap."""
    save_png(grid(images), path)


def grid(images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "c gh gw"]:
    """Returns images, at least one, laid out in reading order in a nearly square grid with a one-pixel gap."""
    n_columns = math.ceil(math.sqrt(len(images)))
    n_rows = math.ceil(len(images) / n_columns)
    blank = images.new_zeros(n_rows * n_columns - len(images), *images.shape[1:])
    cells = pad(torch.cat([images, blank]), (0, 1, 0, 1))
    _, channels, height, width = cells.shape
    rows = cells.reshape(n_rows, n_columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return rows.reshape(channels, n_rows * height, n_columns * width)[:, :-1, :-1].contiguous()


def _as_array(image: UInt8[Tensor, "c h w"]) -> UInt8[np.ndarray, "..."]:
    array = image.permute(1, 2, 0).numpy()
    return array[:, :, 0] if array.shape[2] == 1 else array
