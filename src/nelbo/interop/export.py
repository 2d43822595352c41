r"""A time schedule in the forms in which other programs take one.

Within nelbo a chain stops at gammas. Programs for DDPMs number the N noise levels that a model was trained at by
timesteps 0 .. N - 1 and walk them down; node i of a chain, node 0 being the clean image, is timestep i - 1. A chain of
K network evaluations is K timesteps, strictly descending.

- diffusers: ``scheduler.set_timesteps(timesteps=[...])``, or
  :func:`~nelbo.interop.timetable_scheduler.timetable_scheduler` inside a pipeline.
- k-diffusion: a tensor of :math:`\sigma = \sqrt{(1 - \bar\alpha) / \bar\alpha} = e^{\gamma'/2}`, then 0.
- improved-diffusion: ``SpacedDiffusion(use_timesteps={...})``, which its ``--timestep_respacing`` cannot express.

Sigmas are in the model's own units, with pixels from -1 to 1 by v / 127.5 - 1, hence :math:`\gamma'` and not the
:math:`\gamma` of :mod:`nelbo.interop.ddpm`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.errors import NelboError
from nelbo.interop.ddpm import DDPM
from nelbo.interop.timetable_scheduler import check_timetable
from nelbo.runtime.atomic import new_file

FORMAT = "nelbo timesteps"
VERSION = 1


def timesteps(model: DDPM, gammas: Iterable[float] | Tensor) -> list[int]:
    """Returns the timesteps of a chain's gammas, strictly descending.

    Args:
        model: The DDPM whose gammas they are.
        gammas: The gammas at which the network is evaluated, in any order.

    Raises:
        NelboError: If there are none, one is no gamma of the model, or two are the same.
    """
    values = torch.as_tensor([float(gamma) for gamma in gammas], dtype=torch.float64)
    if not len(values):
        raise NelboError("the chain has no gammas")
    found = sorted(model.timesteps_at(values).tolist(), reverse=True)
    check_timetable({len(found): found}, len(model.gammas))
    return found


def sigmas(model: DDPM, timesteps: Sequence[int]) -> Float[Tensor, " k"]:
    """Returns what the samplers of k-diffusion step through: the noise of each timestep, then 0, in float64.

    Args:
        model: The DDPM.
        timesteps: The chain's timesteps, strictly descending.

    Raises:
        NelboError: If they do not descend strictly, or the model has no such timesteps.
    """
    check_timetable({len(timesteps): timesteps}, len(model.gammas))
    noise = torch.exp((model.gammas.cpu()[list(timesteps)] + model.units.gamma_shift) / 2)
    return torch.cat([noise, torch.zeros(1, dtype=torch.float64)])


def use_timesteps(timesteps: Sequence[int]) -> set[int]:
    """Returns the ``use_timesteps`` of improved-diffusion's SpacedDiffusion."""
    return set(timesteps)


def save_timesteps(path: Path, model: DDPM, timetable: Mapping[int, Sequence[int]]) -> None:
    """Writes chains as JSON: ``num_train_timesteps``, then ``timesteps`` and ``sigmas`` by number of steps.

    Args:
        path: The file.
        model: The DDPM whose timesteps they are.
        timetable: For each number of steps K, its K timesteps, strictly descending.

    Raises:
        NelboError: If the timetable is no such table, or the file cannot be written.
    """
    check_timetable(timetable, len(model.gammas))
    content = {
        "format": FORMAT,
        "version": VERSION,
        "num_train_timesteps": model.n_timesteps,
        "timesteps": {str(budget): list(steps) for budget, steps in timetable.items()},
        "sigmas": {str(budget): sigmas(model, steps).tolist() for budget, steps in timetable.items()},
    }
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def load_timesteps(path: Path) -> dict[int, list[int]]:
    """Returns the chains in a file of :func:`save_timesteps`, by number of steps.

    Raises:
        NelboError: If the file cannot be read or is no such file.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise ValueError("another format")
        timetable = {int(budget): [int(t) for t in steps] for budget, steps in content["timesteps"].items()}
        check_timetable(timetable, int(content["num_train_timesteps"]))
    except OSError as error:
        raise NelboError(f"{path} cannot be read: {error.strerror}") from None
    except NelboError as error:
        raise NelboError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NelboError(f"{path} is no file of timesteps ({error}): write it with save_timesteps") from None
    return timetable
