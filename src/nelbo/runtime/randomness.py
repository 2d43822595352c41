"""Stateless randomness: every draw is a function of what it is for, so that re-batching and resuming change nothing.

A draw is named by a purpose and integers (seed, image, step, ...). The names are hashed by NumPy's ``SeedSequence`` and
expanded by its counter-based Philox generator, whose integers and uniforms are the same on every processor, and whose
normals are but for the last bit of rare tail values; ``torch.randn`` is not the same across CPU instruction sets.
"""

from collections.abc import Iterable, Sequence
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.runtime.threads import share


def generator(purpose: str, *key: int) -> np.random.Generator:
    """Returns the generator of one named stream; equal names give equal streams.

    Args:
        purpose: What the draws are for.
        key: Non-negative integers that tell this stream from others of the same purpose.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([crc32(purpose.encode()), *key])))


def normal(shape: tuple[int, ...], purpose: str, *key: int) -> Float[Tensor, "*shape"]:
    """Returns standard normal noise in float32."""
    return torch.from_numpy(generator(purpose, *key).standard_normal(shape, dtype=np.float32))


def normals(shape: tuple[int, ...], indices: Iterable[int], purpose: str, *key: int) -> Float[Tensor, "b *shape"]:
    """Returns standard normal noise for each index, a function of that index and the key alone."""
    indices = list(indices)
    out = np.empty((len(indices), *shape), np.float32)

    def draw(start: int, stop: int) -> None:
        for i in range(start, stop):
            generator(purpose, *key, int(indices[i])).standard_normal(dtype=np.float32, out=out[i])

    share(len(indices), draw)
    return torch.from_numpy(out)


def next_normals(shape: tuple[int, ...], generators: Sequence[np.random.Generator]) -> Float[Tensor, "b *shape"]:
    """Returns the next standard normal noise of each generator."""
    return torch.from_numpy(np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in generators]))


def uniform(purpose: str, *key: int) -> float:
    """Returns a number in [0, 1)."""
    return float(generator(purpose, *key).random())


def permutation(n: int, purpose: str, *key: int) -> Int[np.ndarray, " n"]:
    """Returns the integers below n in random order."""
    return generator(purpose, *key).permutation(n)
