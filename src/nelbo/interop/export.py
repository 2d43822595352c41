r"""A time schedule in the forms in which other programs take one.

Within nelbo a chain stops at gammas. Programs for DDPMs number the N noise levels that a model was trained at by
timesteps 0 .. N - 1 and walk them down; node i of a chain, node 0 being the clean image, is timestep i - 1. A chain of
K network evaluations is K timesteps, strictly descending.

- diffusers: ``scheduler.set_timesteps(timesteps=[...])``, or
  :func:`~nelbo.interop.timetable_scheduler.timetable_scheduler` inside a pipeline.
- k-diffusion: a tensor of :math:`\sigma = \sqrt{(1 - \bar\alpha) / \bar\alpha} = e^{\gamma'/2}`, then 0.
- improved-diffusion: ``SpacedDiffusion(use_timesteps={...})``, which its ``--timestep_respacing`` cannot express.

Each of them steps with the kernel that the model was trained with and ends with its own last step. So must a schedule
that is exported: :func:`pipeline_schedules` finds those. Any other, such as one of the spectral kernel, runs in
:mod:`nelbo.interop.spectral_scheduler`.

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
from nelbo.interop.timetable_scheduler import check_timetable, check_walked
from nelbo.runtime.atomic import write_json
from nelbo.time_schedule.error_table import ErrorTable
from nelbo.time_schedule.optimise import Schedules, optimal_schedules
from nelbo.time_schedule.schedule import TimeSchedule

FORMAT = "nelbo timesteps"
VERSION = 1


def pipeline_schedules(table: ErrorTable, model: DDPM, budgets: Iterable[int] | None = None) -> Schedules:
    """Returns the best schedules of the chain that a pipeline walks: the model's own kernel, and its own last step.

    Args:
        table: The model's error table.
        model: The model.
        budgets: The Ks that will be asked for; by default, all.

    Raises:
        NelboError: If a budget is out of range.
    """
    return optimal_schedules(table, budgets, model.reverse_kernel, exits=["decoder"])


def timesteps(model: DDPM, chain: TimeSchedule | Iterable[float] | Tensor) -> list[int]:
    """Returns the timesteps of a chain, strictly descending.

    Args:
        model: The DDPM whose chain it is.
        chain: A time schedule, or the gammas at which the network is evaluated, in any order.

    Raises:
        NelboError: If there are none, one is no gamma of the model, two are the same, or the schedule is another
            model's, or has a kernel or a last step that no pipeline of the model has.
    """
    if isinstance(chain, TimeSchedule):
        chain.check_model(model)
        check_walked(chain, model.reverse_kernel)
    gammas = chain.gammas if isinstance(chain, TimeSchedule) else chain
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


def save_timesteps(path: Path, model: DDPM, chains: Mapping[int, Sequence[int] | TimeSchedule]) -> None:
    """Writes chains as JSON: ``num_train_timesteps``, then by number of steps ``timesteps``, ``sigmas``, ``bpd``.

    Args:
        path: The file.
        model: The DDPM whose timesteps they are.
        chains: For each number of steps K, a schedule that its pipeline walks, whose predicted bound is written too; or
            K timesteps, strictly descending.

    Raises:
        NelboError: If the timetable is no such table, a schedule is not one that a pipeline walks, or the file cannot
            be written.
    """
    timetable = {
        budget: timesteps(model, chain) if isinstance(chain, TimeSchedule) else chain
        for budget, chain in chains.items()
    }
    predicted = {
        str(k): chain.bpd for k, chain in chains.items() if isinstance(chain, TimeSchedule) and chain.prediction
    }
    check_timetable(timetable, len(model.gammas))
    content = {
        "format": FORMAT,
        "version": VERSION,
        "num_train_timesteps": model.n_timesteps,
        "timesteps": {str(budget): list(steps) for budget, steps in timetable.items()},
        "kernel": model.reverse_kernel,
        "bpd": predicted,
        "sigmas": {str(budget): sigmas(model, steps).tolist() for budget, steps in timetable.items()},
    }
    write_json(path, content)


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
