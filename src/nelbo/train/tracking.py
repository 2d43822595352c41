"""The numbers of a run: ``metrics.jsonl`` always, TensorBoard where it is installed."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import UInt8
from torch import Tensor

from nelbo.runtime.atomic import new_file

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Metrics:
    """Appends one JSON object a line; after a resumption, lines past the resumed step are dropped.

    Args:
        folder: The run folder.
        step: The step the run resumes from.
        batch_size: Images a step.
    """

    def __init__(self, folder: Path, step: int, batch_size: int) -> None:
        self.path, self.batch_size = folder / "metrics.jsonl", batch_size
        kept = "".join(line for line in self._lines() if json.loads(line)["step"] <= step)
        with new_file(self.path) as temporary:
            temporary.write_text(kept)
        self._tensorboard = _tensorboard(folder, step * batch_size)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Records values at a step."""
        n_images = step * self.batch_size
        with self.path.open("a") as stream:
            stream.write(json.dumps({"step": step, "n_images": n_images, **values}) + "\n")
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, n_images)
            self._tensorboard.flush()

    def show(self, step: int, name: str, image: UInt8[Tensor, "c h w"]) -> None:
        """Records an image at a step, in TensorBoard alone."""
        if self._tensorboard is not None:
            self._tensorboard.add_image(name, image, step * self.batch_size)
            self._tensorboard.flush()

    def lowest(self, name: str) -> float:
        """Returns the lowest value recorded under a name; infinity where there is none."""
        return min((values[name] for line in self._lines() if name in (values := json.loads(line))), default=math.inf)

    def _lines(self) -> list[str]:
        """Returns the whole lines on disk; a run killed while writing leaves part of one."""
        if not self.path.exists():
            return []
        return [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("}\n")]


def _tensorboard(folder: Path, n_images: int) -> "SummaryWriter | None":
    """Returns what writes for TensorBoard; numbers past ``n_images`` that an earlier process wrote are hidden."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=n_images + 1 if n_images else None)
