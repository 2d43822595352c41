"""The chain that a number of steps stands for, where no schedule was found: even steps, the model's own kernel."""

import torch

from nelbo.bound import even_nodes
from nelbo.fingerprint import fingerprint
from nelbo.model import DiffusionModel, check_n_steps
from nelbo.time_schedule.schedule import TimeSchedule


def plain_schedule(model: DiffusionModel, n_steps: int) -> TimeSchedule:
    """Returns the schedule of K even steps: in the time of the noise schedule, or among a discrete model's levels.

    Args:
        model: The model.
        n_steps: K, the network calls.

    Raises:
        NelboError: If K is out of range.
    """
    check_n_steps(n_steps, model.gammas)
    levels = None if model.gammas is None else even_nodes(len(model.gammas), n_steps)
    gammas = model.noise_schedule.grid(n_steps) if model.gammas is None else model.gammas[levels]
    return TimeSchedule(
        gammas=gammas.detach().cpu().to(torch.float64),
        reverse=model.reverse.name,
        exit=None,
        fingerprint=fingerprint(model),
        image_shape=model.image_shape,
        n_steps=n_steps,
        timesteps=None if levels is None else tuple(levels),
        prediction=None,
    )
