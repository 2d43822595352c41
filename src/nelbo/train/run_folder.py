"""Which run a folder holds: one, claimed once, then only for the same run or a longer one."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nelbo.errors import NelboError
from nelbo.runtime.atomic import write_json
from nelbo.train.config import TrainConfig, differences
from nelbo.train.loop import learning_rate

CONFIG = "config.json"


def claim_folder(folder: Path, identity: dict[str, Any], is_first: bool = True) -> int | None:
    """Makes a run folder, or checks that an existing one holds the same run, or one that is now made longer.

    Every process of a run does so for itself, and several at once do no harm: a mistake ends each of them with its
    message, and none waits for another that has ended.

    Args:
        folder: The run folder.
        identity: What must not change between the calls of one run, but for ``n_images``, which may grow.
        is_first: Whether this process writes down that the run is made longer.

    Returns:
        How many images the run was to see before this call made it longer; None where it does not.

    Raises:
        NelboError: If it holds another run (the message gives the differences) or something else.
    """
    path = folder / CONFIG
    is_taken = folder.exists() and (
        not folder.is_dir() or any(not file.name.startswith(".") for file in folder.iterdir())
    )
    if path.exists():  # Asked last: what took the folder may be another process of this run, just now.
        return _taken_up(folder, _read_identity(path), identity, is_first)
    if is_taken:
        raise NelboError(f"{folder} exists and is no training run: choose another --out")
    _write_identity(path, identity)
    return None


def recorded(folder: Path | None, field: str) -> object:
    """Returns what a run folder says of a field of its configuration; None where there is no run yet."""
    path = None if folder is None else folder / CONFIG
    return _read_identity(path).get(field) if path is not None and path.is_file() else None


def extension(config: TrainConfig, before: int, step: int) -> str:
    """Returns in words what making a run longer does to its learning rate at a step."""
    shorter = config.model_copy(update={"n_images": before})
    rates = [learning_rate(each, min(step, each.n_updates)) for each in (shorter, config)]
    if config.decay == "constant":
        how = f"the learning rate stays {rates[1]:.2g}"
    else:
        how = f"the learning rate falls to zero over the new length, so it goes from {rates[0]:.2g} to {rates[1]:.2g}"
    return f"made longer at step {step}, from {before} to {config.n_images} images: {how}"


def _taken_up(folder: Path, old: dict[str, Any], new: dict[str, Any], is_first: bool) -> int | None:
    before = old.get("n_images")
    is_longer = isinstance(before, int) and before < new.get("n_images", 0)
    if changes := differences({**old, "n_images": new.get("n_images")} if is_longer else old, new):
        raise NelboError(
            f"{folder} holds another run ({'; '.join(changes)}): undo the change, choose another --out, or begin a new "
            f"run with this one's weights: --finetune {folder / 'model'} and another --out"
        )
    if not is_longer:
        return None
    if is_first:
        _write_identity(folder / CONFIG, new)
    return before


def _write_identity(path: Path, identity: dict[str, Any]) -> None:
    write_json(path, identity)


def _read_identity(path: Path) -> dict[str, Any]:
    try:
        identity = json.loads(path.read_text())
    except ValueError:
        identity = None
    if not isinstance(identity, dict):
        raise NelboError(f"{path} is damaged: restore it or choose another --out")
    return _completed(identity)


def _completed(identity: dict[str, Any]) -> dict[str, Any]:
    """Returns what a run was with the defaults of those fields that came to be after it was started."""
    fields = {name: value for name, value in identity.items() if name not in ("data", "start")}
    try:
        return {**identity, **TrainConfig.model_validate_json(json.dumps(fields)).model_dump(mode="json")}
    except ValidationError:
        return identity
