"""Ancestral sampling: the reverse chain walked from pure noise to an image, one random generator per image."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nelbo.errors import NelboError
from nelbo.gaussian import over_image
from nelbo.model import DiffusionModel, check_n_steps
from nelbo.precision import autocast, resolve_precision, set_precision
from nelbo.randomness import generator


def sample(
    model: DiffusionModel,
    n_steps: int,
    seeds: Sequence[int],
    batch_size: int = 64,
    precision: str = "auto",
    progress: Callable[[int], object] = lambda n: None,
) -> UInt8[Tensor, "n c h w"]:
    r"""Returns one image for each seed, by ancestral sampling.

    .. math:: z_1 \sim \mathcal N(0, I), \qquad z_s \sim p(z_s \mid z_t), \qquad x = \arg\max p(x \mid z_0)

    Image k depends on seed k alone, but for rounding: all its noise comes from one generator.

    Args:
        model: The model.
        n_steps: Steps of the chain, evenly spaced in the time of the model's noise schedule.
        seeds: One non-negative integer per image.
        batch_size: Images walked together.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        progress: Called with 1 after each network call.

    Raises:
        NelboError: If there are no seeds, one is negative, ``n_steps`` or ``batch_size`` < 1, or the model's
            output is no number.
    """
    check_n_steps(n_steps)
    if not len(seeds) or min(seeds) < 0:
        raise NelboError(f"sampling needs at least one seed, none negative, got {list(seeds)[:3]}")
    if batch_size < 1:
        raise NelboError(f"batch_size must be at least 1, got {batch_size}")
    resolved = resolve_precision(precision, model.device)
    model.eval()
    set_precision(model, model.device, resolved)
    with torch.no_grad(), autocast(model.device, resolved):
        gammas = model.noise_schedule.grid(n_steps)
        batches = [seeds[start : start + batch_size] for start in range(0, len(seeds), batch_size)]
        return torch.cat([_walk(model, gammas, batch, progress) for batch in batches])


def _walk(
    model: DiffusionModel,
    gammas: Float[Tensor, " n"],
    seeds: Sequence[int],
    progress: Callable[[int], object],
) -> UInt8[Tensor, "b c h w"]:
    """Returns the images of one batch of seeds; the gammas increase and are walked backwards."""
    generators = [generator("sample", seed) for seed in seeds]
    z = _noise(model, generators)
    for gamma_s, gamma_t in zip(gammas[:-1].flip(0), gammas[1:].flip(0), strict=True):
        gamma_s, gamma_t = gamma_s.expand(len(seeds)), gamma_t.expand(len(seeds))
        mean, std = model.reverse.mean_std(z, model.denoise(z, gamma_t), gamma_s, gamma_t)
        z = mean + over_image(std, mean) * _noise(model, generators)
        progress(1)
    if not bool(torch.isfinite(z).all()):
        raise NelboError("the sampled latents are not finite: the model's weights or its noise schedule are damaged")
    return model.decoder.mode(z, gammas[0]).cpu()


def _noise(model: DiffusionModel, generators: Sequence[np.random.Generator]) -> Float[Tensor, "b c h w"]:
    draws = [rng.standard_normal(model.image_shape, dtype=np.float32) for rng in generators]
    return torch.from_numpy(np.stack(draws)).to(model.device)
