"""Which images make up which batch: a function of the seed and the step, so that resuming needs no state."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor

from nelbo.data.images import Images
from nelbo.models.augmentation import AUGMENTATIONS
from nelbo.runtime.randomness import generator, permutation


def read_batch(
    data: Images, positions: Sequence[int], n_batch: int, seed: int, step: int, flip: bool
) -> UInt8[Tensor, "b c h w"]:
    """Returns part of the batch of a training step; of pictures that are cropped, windows at random places.

    Args:
        data: The training set; each epoch visits all of it, in an order of its own.
        positions: Positions within the whole batch.
        n_batch: Images in the whole batch.
        seed: The run's seed.
        step: The training step, counted from 0.
        flip: Whether to mirror each image with probability 1/2.
    """
    places = generator("training crop", seed, step).random((n_batch, 2))[list(positions)]
    images = data.read_at(stream_indices(len(data), seed, [step * n_batch + p for p in positions]), places)
    if not flip:
        return images
    mirrored = torch.from_numpy(generator("training flip", seed, step).random(n_batch) < 0.5)[list(positions)]
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def read_labels(data: Images, positions: Sequence[int], n_batch: int, seed: int, step: int) -> Int64[Tensor, " b"]:
    """Returns the classes of the images that :func:`read_batch` returns; the data set has some."""
    assert data.labels is not None
    indices = stream_indices(len(data), seed, [step * n_batch + p for p in positions])
    return torch.from_numpy(data.labels[indices])


def draw_codes(
    names: Sequence[str], positions: Sequence[int], n_batch: int, seed: int, step: int
) -> Int64[Tensor, "b k"]:
    """Returns how to transform part of the batch of a training step: one uniform code of each augmentation an image.

    Args:
        names: Which augmentations.
        positions: Positions within the whole batch.
        n_batch: Images in the whole batch.
        seed: The run's seed.
        step: The training step, counted from 0.
    """
    drawn = generator("training augmentation", seed, step).random((n_batch, len(names)))
    n_codes = np.array([AUGMENTATIONS[name].n_codes for name in names], dtype=np.float64)
    return torch.from_numpy((drawn[list(positions)] * n_codes).astype(np.int64))


def stream_indices(n_images: int, seed: int, places: Sequence[int]) -> Int[np.ndarray, " b"]:
    """Returns the images at some places of the endless stream of shuffled epochs."""
    return np.array([_epoch(n_images, seed, place // n_images)[place % n_images] for place in places])


@lru_cache(maxsize=2)
def _epoch(n_images: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    return permutation(n_images, "training order", seed, epoch)
