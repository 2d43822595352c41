"""The numbers of a run: ``metrics.jsonl`` always, TensorBoard where it is installed."""

import json
from collections.abc import Callable
from pathlib import Path

from nelbo.runtime.atomic import new_file


class Metrics:
    """Appends one JSON object a line; after a resumption, lines past the resumed step are dropped.

    Args:
        folder: The run folder.
        step: The step the run resumes from.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "metrics.jsonl"
        kept = "".join(line for line in self._lines() if json.loads(line)["step"] <= step)
        with new_file(self.path) as temporary:
            temporary.write_text(kept)
        self._to_tensorboard = _tensorboard_writer(folder)

    def write(self, step: int, n_images: int, values: dict[str, float]) -> None:
        """Records values at a step."""
        with self.path.open("a") as stream:
            stream.write(json.dumps({"step": step, "n_images": n_images, **values}) + "\n")
        self._to_tensorboard(values, n_images)

    def _lines(self) -> list[str]:
        """Returns the whole lines on disk; a run killed while writing leaves part of one."""
        if not self.path.exists():
            return []
        return [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("}\n")]


def _tensorboard_writer(folder: Path) -> Callable[[dict[str, float], int], object]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return lambda values, n_images: None
    writer = SummaryWriter(str(folder / "tensorboard"))

    def write(values: dict[str, float], n_images: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, n_images)
        writer.flush()

    return write
