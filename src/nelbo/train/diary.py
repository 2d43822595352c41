"""What a run says while it trains: on the terminal, and in ``log.txt``, which keeps it."""

import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from nelbo.runtime.meter import Meter
from nelbo.train.loop import Trainer, learning_rate

LOG = "log.txt"
SMOOTHING = 0.98  # of the loss that is shown, per step


class Diary:
    """Shows a run's state as it goes, as long as the block lasts: silent in all processes but the first.

    Args:
        trainer: The run.
        folder: The run folder.
        start: The step the run goes on from.
    """

    def __init__(self, trainer: Trainer, folder: Path, start: int) -> None:
        self.trainer, self.folder = trainer, folder
        config, world = trainer.config, trainer.world
        total, initial = config.n_updates * config.batch_size, start * config.batch_size
        self._meter = Meter(total, "image", initial, quiet=not world.is_first, also=self._write)
        self._smooth, self._weight = 0.0, 0.0
        self._is_new = True
        self._before = (start, 0.0)  # The step and the seconds at the last line of metrics.

    def __enter__(self) -> "Diary":
        """Starts to show."""
        self._meter.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops to show."""
        self._meter.__exit__(kind, error, trace)

    def on_step(self, loss: float) -> None:
        """Takes in a step's loss, in bits per dimension."""
        self._smooth = SMOOTHING * self._smooth + (1 - SMOOTHING) * loss
        self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)
        trainer = self.trainer
        if self._is_new:
            self._is_new = False
            self._before = (trainer.step - 1, trainer.seconds - trainer.last_seconds)
            begun = f"going on after step {trainer.step - 1} of" if trainer.step > 1 else "started:"
            self.say(f"{begun} {trainer.config.n_updates} steps on {len(trainer.data)} images into {self.folder}")
        name = "weighted loss" if trainer.config.is_weighted else "bpd"
        rate = learning_rate(trainer.config, trainer.step - 1)
        self._meter.note(
            f"step {trainer.step}, {name} {self._smooth / self._weight:.3f}, grad {trainer.gradient_norm:.2g}, "
            f"rate {rate:.2g}"
        )
        self._meter.advance(trainer.config.batch_size)

    def pause(self, why: str) -> None:
        """Says what else than training takes time now."""
        self._meter.note(f"step {self.trainer.step}, {why}")

    def numbers(self) -> dict[str, float]:
        """Returns what a line of metrics holds beside the loss; the speed is that since the last line."""
        trainer, (step, seconds) = self.trainer, self._before
        spent = trainer.seconds - seconds
        n_images = (trainer.step - step) * trainer.config.batch_size
        self._before = (trainer.step, trainer.seconds)
        return {
            "gradient_norm": trainer.gradient_norm,
            "learning_rate": learning_rate(trainer.config, trainer.step - 1),
            "images_per_second": round(n_images / max(spent, 1e-9), 2),
            "seconds": round(trainer.seconds, 1),
        }

    def say(self, text: str) -> None:
        """Writes a line of its own."""
        self._meter.say(text)

    def end(self, is_complete: bool) -> None:
        """Says where the run stopped, and how to go on."""
        trainer = self.trainer
        if not is_complete:
            n_images = trainer.step * trainer.config.batch_size
            self.say(
                f"stopped at step {trainer.step} of {trainer.config.n_updates} ({n_images} images seen): "
                f"the same command goes on from {self.folder}"
            )

    def _write(self, line: str) -> None:
        if not self.trainer.world.is_first:
            return
        with suppress(OSError), (self.folder / LOG).open("a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")
