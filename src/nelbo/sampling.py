"""Sampling: from noise to images, by a solver of few network calls or by the reverse chain, one generator an image."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from nelbo.diffusion.bound import BoundedModel
from nelbo.diffusion.gaussian_entry import GaussianEntry
from nelbo.errors import NelboError
from nelbo.models.interface import DiffusionModel, check_n_steps
from nelbo.models.labels import labels_of_samples
from nelbo.models.precision import precision_of
from nelbo.runtime.device import autocast, set_precision
from nelbo.runtime.randomness import generator
from nelbo.samplers.route import route
from nelbo.samplers.solver import Solver
from nelbo.samplers.table import DEFAULT, make_solver
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
    sampler: str | Solver = "auto",
    entry: GaussianEntry | None = None,
    gammas: Sequence[float] | None = None,
    clip: bool = True,
) -> UInt8[Tensor, "n c h w"]:
    r"""Returns one image for each seed.

    A solver follows the probability flow (:mod:`nelbo.samplers`). Ancestral sampling walks the reverse chain,

    .. math:: z_1 \sim \mathcal N(0, I), \qquad z_s \sim p(z_s \mid z_t), \qquad x = \arg\max p(x \mid z_0) .

    Image k depends on seed k alone, but for rounding: all its noise comes from one generator.

    Args:
        model: The model.
        n_steps: Network calls; or a time schedule, whose chain is walked by ancestral sampling. The best schedule for
            the bound need not give the best pictures.
        seeds: One non-negative integer per image.
        batch_size: Images walked together.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        progress: Called with 1 after each network call.
        classes: Of a class-conditional model, the classes to draw, assigned round-robin: seed k gets class number k of
            them, modulo their number; None for all the model's.
        sampler: ``auto`` (DPM-Solver++ of second order), ``ancestral`` (evenly spaced in the time of the model's noise
            schedule, the model's own kernel), a key of :data:`nelbo.samplers.table.SOLVERS`, or a solver.
        entry: For a solver, the Gaussian of the model's images, with which it enters below the noisiest level; None
            takes that of ``model.image_moments``, and where these are unknown standard normal noise.
        gammas: For a solver, its noise levels, decreasing; by default EDM's rule.
        clip: For a solver, whether predicted images are clipped to [-1, 1].

    Raises:
        NelboError: If there are no seeds, one is negative, ``n_steps`` or ``batch_size`` < 1, or the model's
            output is no number, or the time schedule is another model's, the model does not have a class, or the
            sampler is unknown or cannot do what is asked.
    """
    if not len(seeds) or min(seeds) < 0:
        raise NelboError(f"sampling needs at least one seed, none negative, got {list(seeds)[:3]}")
    if batch_size < 1:
        raise NelboError(f"batch_size must be at least 1, got {batch_size}")
    labels = labels_of_samples(model, seeds, classes)
    resolved = precision_of(model, precision)
    way = _way(model, n_steps, sampler, entry, gammas, clip)
    model.eval()
    set_precision(model, model.device, resolved)
    with torch.no_grad(), autocast(model.device, resolved):
        images = []
        for start in range(0, len(seeds), batch_size):
            batch = slice(start, start + batch_size)
            given = model.given(None if labels is None else labels[batch].to(model.device))
            generators = [generator("sample", seed) for seed in seeds[batch]]
            images.append(way(given, generators, progress).cpu())
        return torch.cat(images)


_Way = Callable[[BoundedModel, Sequence[np.random.Generator], Callable[[int], object]], UInt8[Tensor, "b c h w"]]


def _way(
    model: DiffusionModel,
    n_steps: int | TimeSchedule,
    sampler: str | Solver,
    entry: GaussianEntry | None,
    gammas: Sequence[float] | None,
    clip: bool,
) -> _Way:
    """Returns what makes images of a batch's generators."""
    if isinstance(n_steps, TimeSchedule):
        if sampler not in ("auto", "ancestral"):
            raise NelboError(f"a time schedule is a chain for ancestral sampling: give {sampler} a number of steps")
        n_steps.check_model(model)
    if isinstance(n_steps, TimeSchedule) or sampler == "ancestral":
        if entry is not None or gammas is not None:
            raise NelboError("ancestral sampling takes no entry and no gammas: put them into a time schedule")
        schedule = n_steps if isinstance(n_steps, TimeSchedule) else plain_schedule(model, n_steps)
        return lambda given, generators, progress: walk(given, schedule, generators, model.device, progress)
    check_n_steps(n_steps, model.gammas)
    if entry is None and model.image_moments is not None:
        entry = model.image_moments.entry()
    solver = make_solver(DEFAULT if sampler == "auto" else sampler) if isinstance(sampler, str) else sampler
    path = route(model, solver, n_steps, entry, gammas, clip)
    return lambda given, generators, progress: path.walk(given, model.image_shape, generators, model.device, progress)
