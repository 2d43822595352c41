"""How fast this machine trains: a few seconds of real steps on random images."""

import time

import torch

from nelbo.data.arrays import from_array
from nelbo.data.images import Images
from nelbo.runtime.processes import join_world
from nelbo.train.config import TrainConfig
from nelbo.train.cost import forward_flop, settings_fit
from nelbo.train.loop import Trainer

SECONDS = 3.0
LARGEST_FLOP = 2e12  # of one image: a step of more may take minutes on a CPU, and is not tried.


def images_per_second(config: TrainConfig, device: str = "auto", compiled: bool = False) -> float | None:
    """Returns the images a second of a run's training steps, or None where one image takes too long to try.

    Steps begin with one image and double in size up to the run's batch, as long as the time allows; the largest that
    was reached is the result. A batch that large batches would be faster at is therefore estimated too slow.

    Args:
        config: The run.
        device: ``auto``, ``cpu`` or ``cuda``.
        compiled: Whether the step is compiled.
    """
    if device != "cuda" and not torch.cuda.is_available() and 3 * forward_flop(config) > LARGEST_FLOP:
        return None
    deadline, batch, speed = time.perf_counter() + SECONDS, 1, 0.0
    while True:
        seconds = _seconds_a_step(config.model_copy(update={"batch_size": batch}), device, compiled)
        speed = batch / seconds
        if batch == config.batch_size or time.perf_counter() + 4 * seconds > deadline:
            return speed
        batch = min(2 * batch, config.batch_size)


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
