"""Which images make up which batch: a function of the seed and the step, so that resuming needs no state."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from nelbo.data.interface import Images
from nelbo.randomness import generator, permutation


def read_batch(
    data: Images, positions: Sequence[int], n_batch: int, seed: int, step: int, flip: bool
) -> UInt8[Tensor, "b c h w"]:
    """Returns part of the batch of a training step.

    Args:
        data: The training set; each epoch visits all of it, in an order of its own.
        positions: Positions within the whole batch.
        n_batch: Images in the whole batch.
        seed: The run's seed.
        step: The training step, counted from 0.
        flip: Whether to mirror each image with probability 1/2.
    """
    images = data.read(stream_indices(len(data), seed, [step * n_batch + p for p in positions]))
    if not flip:
        return images
    mirrored = torch.from_numpy(generator("training flip", seed, step).random(n_batch) < 0.5)[list(positions)]
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def stream_indices(n_images: int, seed: int, places: Sequence[int]) -> Int[np.ndarray, " b"]:
    """Returns the images at some places of the endless stream of shuffled epochs."""
    return np.array([_epoch(n_images, seed, place // n_images)[place % n_images] for place in places])


@lru_cache(maxsize=2)
def _epoch(n_images: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    return permutation(n_images, "training order", seed, epoch)
