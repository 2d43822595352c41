"""Images of any size as tiles of the model's: cut in reading order, the last ones of a row or column padded."""

import numpy as np
from jaxtyping import Shaped, UInt8

from nelbo.container.entries import Entry

Pixels = Shaped[np.ndarray, "_ _ ..."]
CHANNELS = {"L": 1, "RGB": 3, "LA": 2, "RGBA": 4, "I;16": 1, "LA;16": 2, "RGB;16": 3, "RGBA;16": 4}
MODES_OF_MODELS = {1: "L", 3: "RGB"}  # The modes that a model can code, by its channels.


def pixel_shape(entry: Entry) -> tuple[int, ...]:
    """Returns the shape of an image's pixels: rows, columns, and channels where there are several."""
    n_channels = CHANNELS[entry.mode]
    return (entry.height, entry.width) if n_channels == 1 else (entry.height, entry.width, n_channels)


def pixel_type(entry: Entry) -> np.dtype:
    """Returns the type of an image's samples."""
    return np.dtype(np.uint16 if entry.mode.endswith(";16") else np.uint8)


def mode_of(pixels: Pixels) -> str:
    """Returns the mode of an image with such pixels."""
    n_channels = pixels.shape[2] if pixels.ndim == 3 else 1
    deep = pixels.dtype == np.uint16
    return next(mode for mode, n in CHANNELS.items() if n == n_channels and mode.endswith(";16") == deep)


def cut(pixels: UInt8[np.ndarray, "h w *c"], shape: tuple[int, int, int]) -> UInt8[np.ndarray, "n c th tw"]:
    """Returns an image's tiles of shape (C, H, W); padding repeats its last row and column."""
    n_channels, height, width = shape
    rows, columns = -(-pixels.shape[0] // height), -(-pixels.shape[1] // width)
    padding = ((0, rows * height - pixels.shape[0]), (0, columns * width - pixels.shape[1]), (0, 0))
    padded = np.pad(pixels.reshape(*pixels.shape[:2], n_channels), padding, mode="edge")
    blocks = padded.reshape(rows, height, columns, width, n_channels).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(blocks.reshape(-1, n_channels, height, width))


def joined(tiles: UInt8[np.ndarray, "n c th tw"], entry: Entry) -> UInt8[np.ndarray, "h w *c"]:
    """Returns the image that tiles were cut from, the inverse of :func:`cut`."""
    n_channels, height, width = tiles.shape[1:]
    rows, columns = -(-entry.height // height), -(-entry.width // width)
    blocks = tiles.reshape(rows, columns, n_channels, height, width).transpose(0, 3, 1, 4, 2)
    whole = blocks.reshape(rows * height, columns * width, n_channels)[: entry.height, : entry.width]
    return np.ascontiguousarray(whole).reshape(pixel_shape(entry))
