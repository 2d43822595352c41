"""Which run a folder holds: one, claimed once, then only for the same run or a longer one."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nelbo.errors import NelboError
from nelbo.runtime.atomic import new_file
from nelbo.train.config import TrainConfig, differences


def claim_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Makes a run folder, or checks that an existing one holds the same run.

    Every process of a run does so for itself, and several at once do no harm: a mistake ends each of them with its
    message, and none waits for another that has ended.

    Raises:
        NelboError: If it holds another run (the message gives the differences) or something else.
    """
    path = folder / "config.json"
    is_taken = folder.exists() and (
        not folder.is_dir() or any(not file.name.startswith(".") for file in folder.iterdir())
    )
    if path.exists():  # Asked last: what took the folder may be another process of this run, just now.
        if changes := differences(_read_identity(path), identity):
            raise NelboError(
                f"{folder} holds another run ({'; '.join(changes)}): undo the change or choose another --out"
            )
        return
    if is_taken:
        raise NelboError(f"{folder} exists and is no training run: choose another --out")
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(identity, indent=2) + "\n")


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
