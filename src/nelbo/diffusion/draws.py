"""The randomness of an estimate of the bound: what noise, at what times, for evaluation and for training."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.diffusion.bound import Draws
from nelbo.runtime.randomness import normals, uniform

GOLDEN_RATIO = (5**0.5 - 1) / 2


def evaluation_times(indices: Iterable[int], seed: int, n_passes: int = 1, which: int = 0) -> Float[Tensor, " b"]:
    r"""Returns the times at which images of a data set are evaluated, each a function of the seed and its index.

    .. math:: u_k = \mathrm{mod}(u + k \varphi + p / P,\ 1), \qquad \varphi = (\sqrt 5 - 1)/2

    A Kronecker sequence: over any run of images, and over the P passes of one image, times cover [0, 1) evenly.

    Args:
        indices: Positions of the images in their data set.
        seed: The estimate's randomness, which sets u.
        n_passes: How many passes P the whole estimate makes.
        which: The pass p these draws are for.
    """
    start = uniform("evaluation time", seed) + which / n_passes
    return torch.tensor([(start + k * GOLDEN_RATIO) % 1 for k in indices], dtype=torch.float64)


def evaluation_draws(
    indices: Iterable[int], image_shape: tuple[int, ...], seed: int, n_passes: int = 1, which: int = 0
) -> Draws:
    """Returns the draws of images of a data set, each a function of the seed, the pass and its index.

    Args:
        indices: Positions of the images in their data set.
        image_shape: Channels, height and width.
        seed: The estimate's randomness.
        n_passes: How many passes the whole estimate makes.
        which: The pass these draws are for.
    """
    indices = list(indices)
    return Draws(
        eps_0=normals(image_shape, indices, "evaluation eps_0", seed, which),
        u=evaluation_times(indices, seed, n_passes, which),
        eps_t=normals(image_shape, indices, "evaluation eps_t", seed, which),
    )


def chain_draws(
    indices: Iterable[int], image_shape: tuple[int, ...], seed: int, which: int = 0
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """Returns the noise in which images of a data set go through a whole chain, a function of seed, pass and index.

    The first is that of the latent which is decoded without the network, the second of all latents that the network
    sees: one noise for all levels, so that what a chain costs varies smoothly with where it stops.

    Args:
        indices: Positions of the images in their data set.
        image_shape: Channels, height and width.
        seed: The estimate's randomness.
        which: The pass these draws are for.
    """
    indices = list(indices)
    return normals(image_shape, indices, "chain eps_0", seed, which), normals(
        image_shape, indices, "chain eps", seed, which
    )


def training_draws(positions: range, n_batch: int, image_shape: tuple[int, ...], seed: int, step: int) -> Draws:
    r"""Returns the draws of part of a training batch, each a function of the seed, the step and its position.

    Times are the paper's low-discrepancy ones, :math:`u_i = \mathrm{mod}(u + i/B, 1)` (appendix I.1), over the whole
    batch of B images however many processes share it.

    Args:
        positions: Positions in the whole batch of the images these draws are for.
        n_batch: Images in the whole batch.
        image_shape: Channels, height and width.
        seed: The run's seed.
        step: The training step.
    """
    start = uniform("training time", seed, step)
    return Draws(
        eps_0=normals(image_shape, positions, "training eps_0", seed, step),
        u=torch.tensor([(start + i / n_batch) % 1 for i in positions], dtype=torch.float64),
        eps_t=normals(image_shape, positions, "training eps_t", seed, step),
    )


def to_device(draws: Draws, device: torch.device) -> Draws:
    """Returns the draws on a device."""
    return Draws(draws.eps_0.to(device), draws.u.to(device), draws.eps_t.to(device))
