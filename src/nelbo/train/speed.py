"""How fast this machine trains: a few seconds of real steps on random images."""

import time

import torch

from nelbo.data.arrays import from_array
from nelbo.data.images import Images
from nelbo.runtime.processes import join_world
from nelbo.train.config import TrainConfig
from nelbo.train.cost import forward_flop, settings_fit
from nelbo.train.loop import Trainer

SECONDS = 6.0
LARGEST_FLOP = 2e12  # of one image: a step of more may take minutes on a CPU, and is not tried.


def images_per_second(config: TrainConfig, device: str = "auto", compiled: bool = False) -> float | None:
    """Returns the images a second of a run's training steps, or None where one image takes too long to try.

    Batches begin with one image and grow fourfold up to the run's own, as long as the time allows. Where it does not,
    the time of the whole batch is extrapolated along a line: a step has a constant part, and one for each image.

    Args:
        config: The run.
        device: ``auto``, ``cpu`` or ``cuda``.
        compiled: Whether the step is compiled.
    """
    if device != "cuda" and not torch.cuda.is_available() and 3 * forward_flop(config) > LARGEST_FLOP:
        return None
    deadline, batch, points = time.perf_counter() + SECONDS, 1, list[tuple[int, float]]()
    while True:
        seconds = _seconds_a_step(config.model_copy(update={"batch_size": batch}), device, compiled)
        points.append((batch, seconds))
        if batch == config.batch_size or (len(points) > 1 and time.perf_counter() + 12 * seconds > deadline):
            return config.batch_size / extrapolated(points, config.batch_size)
        batch = min(4 * batch, config.batch_size)


def extrapolated(points: list[tuple[int, float]], batch: int) -> float:
    """Returns the seconds of a batch, along the line through the last two of some batches and their seconds.

    Example:
        >>> extrapolated([(1, 0.5), (4, 2.0)], 64)
        32.0
    """
    (last, seconds) = points[-1]
    if batch == last:
        return seconds
    before, fewer = points[-2] if len(points) > 1 else (0, 0.0)
    slope = max((seconds - fewer) / (last - before), 0.25 * seconds / last)  # Noise must not make images free.
    return seconds + slope * (batch - last)


def _seconds_a_step(config: TrainConfig, device: str, compiled: bool) -> float:
    """Returns the shorter of two steps after a first one."""
    with join_world(device) as world, settings_fit():
        trainer = Trainer(config, _noise(config), world, compiled)
        before = []
        for _ in range(3):
            trainer.run_step()
            before.append(trainer.last_seconds)
        return min(before[1:])


def _noise(config: TrainConfig) -> Images:
    """Returns random images of the model's shape, with labels where it has classes."""
    random = torch.Generator().manual_seed(0)
    n = 2 * config.batch_size
    pixels = torch.randint(256, (n, *config.model.image_shape), dtype=torch.uint8, generator=random)
    labels = torch.randint(max(config.model.n_classes, 1), (n,), generator=random).numpy()
    return from_array(pixels, "random images", labels)
