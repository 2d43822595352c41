"""Training states on disk: written under a temporary name, then renamed, so that one that exists is whole."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nelbo.errors import NelboError
from nelbo.runtime.atomic import new_folder

STATE = "state.pt"


@dataclass(frozen=True)
class Checkpoints:
    """The training states of a run, the last few kept.

    Attributes:
        folder: Holds one folder for each state, named after its step.
        n_kept: How many states are kept.
    """

    folder: Path
    n_kept: int = 2

    def steps(self) -> list[int]:
        """Returns the steps whose states are on disk, increasing."""
        return sorted(int(name) for state in self.folder.glob(f"*/{STATE}") if (name := state.parent.name).isdecimal())

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes a state, then removes the oldest beyond those kept, and what killed processes left half-written."""
        with new_folder(self.folder / f"{step:09d}") as temporary:
            torch.save(state, temporary / STATE)
        for old in self.steps()[: -self.n_kept]:
            shutil.rmtree(self.folder / f"{old:09d}")
        for unfinished in self.folder.glob(".*"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def load_latest(self) -> dict[str, Any] | None:
        """Returns the latest state, in main memory, or None if there is none.

        Raises:
            NelboError: If its file is damaged.
        """
        if not (steps := self.steps()):
            return None
        path = self.folder / f"{steps[-1]:09d}" / STATE
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load fails in many ways on a damaged file
            raise NelboError(
                f"{path} is damaged ({type(error).__name__}): remove its folder to resume from the state before it"
            ) from None
