"""The model of an archive: a bundled one, or a folder, which keeps its frozen form beside the weights."""

from pathlib import Path
from typing import TYPE_CHECKING

from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo.codec.codec import Codec
    from nelbo.integer.frozen_model import FrozenModel
    from nelbo.time_schedule.schedule import TimeSchedule


def model_folder_of(model: str) -> Path:
    """Returns the folder of a model: a bundled one, a model folder, or that of a training run."""
    from nelbo.runtime.bundled import bundled_models

    folder = bundled_models().get(model, Path(model))
    inner = folder / "model"
    return inner if (inner / "config.json").is_file() and not (folder / "model_index.json").is_file() else folder


def model_name(model: str) -> str:
    """Returns what archives call a model: its bundled name, its run's or its folder's."""
    folder = model_folder_of(model).absolute()
    return folder.parent.name if folder.name == "model" else folder.name


def frozen_model(model: str) -> "FrozenModel":
    """Returns a model in integers: the form in its folder, or one that is frozen now and kept there.

    Raises:
        NelboError: If there is no such model, or it cannot be frozen.
    """
    from nelbo.integer.frozen_files import FROZEN, frozen_of
    from nelbo.integer.frozen_model import FrozenModel
    from nelbo.interop.any_model import load

    folder = model_folder_of(model)
    if folder.is_file():
        return FrozenModel.load(folder)
    if (folder / FROZEN).is_file():
        return FrozenModel.load(folder / FROZEN)
    frozen = frozen_of(load(str(folder) if folder.is_dir() else model))
    if folder.is_dir():
        keep_in(frozen, folder)
    return frozen


def keep_in(frozen: "FrozenModel", folder: Path) -> None:
    """Keeps a frozen model in its model's folder, if that can be written: then the folder is all a reader needs."""
    from nelbo.integer.frozen_files import FROZEN
    from nelbo.runtime.atomic import check_writable

    try:
        check_writable(folder / FROZEN)
    except NelboError:
        return  # The cache has it.
    frozen.save(folder / FROZEN)


def codec_of(model: str, frozen: Path | None, steps: str, chain: int, lanes: int, verify: bool) -> "Codec":
    """Returns the codec of a command: along a plan that comes with the frozen model, a schedule, or JPEG XL alone.

    Args:
        model: As for the command.
        frozen: As for the command.
        steps: A number of steps, 0 for JPEG XL alone, or a schedule's file.
        chain: As for the command.
        lanes: As for the command.
        verify: As for the command.

    Raises:
        NelboError: If there is no such model or schedule.
    """
    from nelbo.codec.codec import Codec
    from nelbo.codec.plan_store import budgets_of, named_plan
    from nelbo.integer.frozen_model import FrozenModel
    from nelbo.interop.any_model import load
    from nelbo.time_schedule.schedule import TimeSchedule

    name = model_name(model)
    integers = frozen_model(model) if frozen is None else FrozenModel.load(frozen)
    if steps == "0":
        return Codec(None, None, integers, name, chain, lanes, verify, jpeg_xl_alone=True)
    if steps.isdecimal() and int(steps) in budgets_of(integers):
        return Codec(None, named_plan(integers, int(steps)), integers, name, chain, lanes, verify)
    folder = model_folder_of(model)
    loaded = load(str(folder) if folder.is_dir() else model)
    schedule = _schedule(folder, steps) if steps.isdecimal() else TimeSchedule.load(steps)
    return Codec(loaded, schedule, integers, name, chain, lanes, verify)


def _schedule(folder: Path, steps: str) -> "TimeSchedule":
    """Returns the best schedule of a budget, from the error table that comes with the model."""
    from nelbo.time_schedule.error_table import load_table
    from nelbo.time_schedule.optimise import optimal_schedules

    path = folder / "errors.safetensors"
    if not path.is_file():
        raise NelboError(
            f"{folder} comes with no plan of {steps} steps: find a schedule with nelbo schedule, give its file"
        )
    return optimal_schedules(load_table(path), [int(steps)])[int(steps)]
