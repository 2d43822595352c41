"""Ancestral sampling: the reverse chain walked from pure noise to an image, one random generator per image."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from nelbo.errors import NelboError
from nelbo.models.interface import DiffusionModel
from nelbo.models.labels import labels_of_samples
from nelbo.models.precision import precision_of
from nelbo.runtime.device import autocast, set_precision
from nelbo.runtime.randomness import generator
from nelbo.time_schedule.chain import walk
from nelbo.time_schedule.schedule import TimeSchedule, plain_schedule


def sample(
    model: DiffusionModel,
    n_steps: int | TimeSchedule,
    seeds: Sequence[int],
    batch_size: int = 64,
    precision: str = "auto",
    progress: Callable[[int], object] = lambda n: None,
    classes: Sequence[int] | None = None,
) -> UInt8[Tensor, "n c h w"]:
    r"""Returns one image for each seed, by ancestral sampling.

    .. math:: z_1 \sim \mathcal N(0, I), \qquad z_s \sim p(z_s \mid z_t), \qquad x = \arg\max p(x \mid z_0)

    Image k depends on seed k alone, but for rounding: all its noise comes from one generator.

    Args:
        model: The model.
        n_steps: Steps of the chain, evenly spaced in the time of the model's noise schedule (of a discrete-time
            model, among its levels); or a time schedule. The best one for the bound need not give the best pictures.
        seeds: One non-negative integer per image.
        batch_size: Images walked together.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        progress: Called with 1 after each network call.
        classes: Of a class-conditional model, the classes to draw: seed k is of class number k of them, counted in
            circles; None for all the model's.

    Raises:
        NelboError: If there are no seeds, one is negative, ``n_steps`` or ``batch_size`` < 1, or the model's
            output is no number, or the time schedule is another model's, or the model does not have a class.
    """
    if isinstance(n_steps, TimeSchedule):
        n_steps.check_model(model)
    schedule = n_steps if isinstance(n_steps, TimeSchedule) else plain_schedule(model, n_steps)
    if not len(seeds) or min(seeds) < 0:
        raise NelboError(f"sampling needs at least one seed, none negative, got {list(seeds)[:3]}")
    if batch_size < 1:
        raise NelboError(f"batch_size must be at least 1, got {batch_size}")
    labels = labels_of_samples(model, seeds, classes)
    resolved = precision_of(model, precision)
    model.eval()
    set_precision(model, model.device, resolved)
    with torch.no_grad(), autocast(model.device, resolved):
        images = []
        for start in range(0, len(seeds), batch_size):
            batch = slice(start, start + batch_size)
            given = model.given(None if labels is None else labels[batch].to(model.device))
            generators = [generator("sample", seed) for seed in seeds[batch]]
            images.append(walk(given, schedule, generators, model.device, progress).cpu())
        return torch.cat(images)
