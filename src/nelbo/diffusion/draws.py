"""The randomness of an estimate of the bound: what noise, at what times, for evaluation and for training."""

import math
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


def step_draws(
    indices: Iterable[int], image_shape: tuple[int, ...], seed: int, which: int, step: int
) -> Float[Tensor, "b c h w"]:
    """Returns the noise of images at one step of a chain in which each has its own."""
    return normals(image_shape, indices, "step eps", seed, which, step)


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


def standard_error(values: Float[Tensor, " n"], phase: Float[Tensor, " n"]) -> float:
    r"""Returns the standard error of the mean of values that were sampled at evenly spread phases.

    Even spreading removes the variation between times from the mean's error, so the plain deviation would overstate
    it several times. Neighbours in phase differ by what is left, the images and their noise; the phase is a circle,
    and the jump where it closes is an error of the mean too.

    .. math:: \mathrm{se}^2 = \frac{1}{2 n^2} \sum_{i=1}^n (y_{(i+1)} - y_{(i)})^2, \qquad y_{(n+1)} = y_{(1)} .

    The values are regarded as a sample: the error is that of the mean over all images like these. As the error of the
    mean over these very images, it is too large by the variation between images.

    Where the expectation of y is the same at all phases, as of steps drawn in proportion to their cost, the square is
    unbiased for any n from 2 on, with about 2n/3 degrees of freedom: mean ± 1.96 se is a 95 % interval from about 50
    images on. Of 2 to 8 images the error is itself uncertain by a factor of up to 3 (for n = 2 the interval needs
    ± 12.7 se, for n = 8 ± 2.6 se, by Student's t). Where the expectation varies, neighbours of few images are far
    apart, and the error is too large rather than too small. One value has no error: NaN.

    Args:
        values: One value per image.
        phase: Where in its cycle the image's time lay, before any map of times to steps: these are monotone.

    References:
        Introduction to Variance Estimation (Wolter, 2007), section 8.2, after estimator v2 of systematic sampling.
    """
    n = len(values)
    if n < 2:
        return math.nan
    around = values[phase.argsort()]
    return math.sqrt((around.roll(-1) - around).square().sum().item() / 2) / n
