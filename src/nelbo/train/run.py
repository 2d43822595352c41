"""Run folders: everything one training run reads and leaves, so that the same call again goes on where it stopped.

``config.json`` what the run is, ``metrics.jsonl`` and ``tensorboard/`` its numbers, ``samples/`` grids of images,
``checkpoints/`` its states, ``model/`` the averaged weights as a model folder.
"""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from tqdm import tqdm

from nelbo.data.images import Images, describe
from nelbo.data.pictures import save_grid
from nelbo.errors import NelboError
from nelbo.evaluation import Evaluation, evaluate
from nelbo.models.folder import save
from nelbo.models.vdm import VDM
from nelbo.runtime.atomic import new_file
from nelbo.runtime.device import resolve_precision
from nelbo.runtime.processes import World, join_world
from nelbo.sampling import sample
from nelbo.train.card import card
from nelbo.train.checkpoint import Checkpoints
from nelbo.train.config import TrainConfig, differences
from nelbo.train.cost import settings_fit
from nelbo.train.finetune import digest
from nelbo.train.loop import Intervals, Trainer, train
from nelbo.train.tracking import Metrics

N_SAMPLES, SAMPLE_STEPS = 16, 100


@dataclass(frozen=True)
class Run:
    """A training run in its folder.

    Attributes:
        config: What is trained, and how.
        data: The training images, without those held out.
        test: Images that the bound is measured on as the run goes; None for none.
        folder: The run folder.
        intervals: How often it logs, checkpoints and evaluates.
        compiled: Whether to compile the training step.
        start: The model that it fine-tunes; None to begin with new weights.
    """

    config: TrainConfig
    data: Images
    test: Images | None
    folder: Path
    intervals: Intervals
    compiled: bool = False
    start: VDM | None = None

    def go(self, device: str = "auto") -> bool:
        """Trains to the end, from where an earlier call stopped; returns whether it is complete.

        Raises:
            NelboError: If the images do not fit the model, or the folder holds another run.
        """
        for images in (self.data, self.test):
            if images is not None:
                check_images(self.config, images)
                check_labels(self.config, images)
        with join_world(device) as world:
            world.part(self.config.batch_size)
            trainer = self._trainer(world)  # Before the folder is claimed: what cannot be trained leaves no trace.
            claim_folder(self.folder, self._identity(world))
            return self._train(trainer)

    def _trainer(self, world: World) -> Trainer:
        """Returns a trainer whose network has been seen to work."""
        with settings_fit(), torch.no_grad():
            trainer = Trainer(self.config, self.data, world, self.compiled, self.start)
            z = torch.zeros(1, *self.config.model.image_shape, device=world.device)
            labels = torch.zeros(1, dtype=torch.int64, device=world.device) if self.config.model.n_classes else None
            trainer.average.model.given(labels).predict(z, torch.zeros(1, device=world.device))
            return trainer

    def _train(self, trainer: Trainer) -> bool:
        world = trainer.world
        checkpoints = Checkpoints(self.folder / "checkpoints")
        start = max(checkpoints.steps(), default=0)
        metrics = Metrics(self.folder, start) if world.is_first else None
        batch = self.config.batch_size
        total = self.config.n_updates * batch
        with (
            tqdm(total=total, initial=start * batch, unit="img", disable=None if world.is_first else True) as bar,
            asked_to_stop(world) as must_stop,
        ):

            def on_log(step: int, loss: float) -> None:
                bar.update(step * batch - bar.n)
                bar.set_postfix(loss=f"{loss:.4f}")
                if metrics:
                    metrics.write(step, step * batch, {"loss_bpd": loss, "seconds": round(trainer.seconds, 1)})

            def on_evaluate(step: int) -> None:
                if metrics:
                    self._evaluate(trainer, metrics, step)
                world.wait()

            return train(trainer, checkpoints, self.intervals, on_log, on_evaluate, must_stop)

    def _evaluate(self, trainer: Trainer, metrics: Metrics, step: int) -> None:
        """Measures the averaged model as it is trained, draws samples from it, and writes it."""
        model = trainer.average.model
        result: Evaluation | None = None
        if self.test is not None:
            result = evaluate(model, self.test, self.config.n_steps, precision=trainer.precision)
            values = {"test_bpd": result.bpd, "test_standard_error": result.standard_error}
            metrics.write(step, step * self.config.batch_size, values)
        n_steps = min(self.config.n_steps or SAMPLE_STEPS, SAMPLE_STEPS)
        images = sample(model, n_steps, range(N_SAMPLES), precision=trainer.precision)
        save_grid(images, self.folder / "samples" / f"{step:09d}.png")
        save(model, self.folder / "model", card(trainer, self.test, result))

    def _identity(self, world: World) -> dict[str, Any]:
        """Returns what must not change between the calls of one run."""
        fields = self.config.model_dump(mode="json")
        fields["precision"] = resolve_precision(self.config.precision, world.device)
        if self.start is not None:
            fields["start"] = digest(self.start)
        return {**fields, "data": {"n_images": len(self.data), "shape": list(self.data.shape)}}


def hold_out(data: Images, n_held_out: int) -> tuple[Images, Images | None]:
    """Returns a training set without its last images, and these; None for none.

    Raises:
        NelboError: If nothing would be left to train on.
    """
    if n_held_out == 0:
        return data, None
    if n_held_out >= len(data):
        raise NelboError(
            f"{data.name} has {len(data)} images and the configuration holds out {n_held_out} of them: "
            "pass more images, or --set n_held_out=0"
        )
    cut = len(data) - n_held_out
    return data.select(range(cut)), data.select(range(cut, len(data)))


def check_images(config: TrainConfig, data: Images) -> None:
    """Raises NelboError unless the images have the model's shape."""
    if tuple(data.shape) != config.model.image_shape:
        raise NelboError(
            f"{data.name}: the images are {describe(data.shape)}, the preset's model takes "
            f"{describe(config.model.image_shape)}: use images of that size, or --set model.image_shape"
        )


def check_labels(config: TrainConfig, data: Images) -> None:
    """Raises NelboError if the model has classes and an image has none of them."""
    n_classes = config.model.n_classes
    if not n_classes:
        return
    if data.labels is None:
        raise NelboError(
            f"{data.name} has no labels, which a model of {n_classes} classes needs: pass an .npz file with an array "
            "'labels', or --set model.n_classes=0"
        )
    low, high = int(data.labels.min()), int(data.labels.max())
    if low < 0 or high >= n_classes:
        raise NelboError(
            f"{data.name}: the labels run from {low} to {high}, the model's classes from 0 to {n_classes - 1}: "
            f"relabel the images, or --set model.n_classes={high + 1}"
        )


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


@contextmanager
def asked_to_stop(world: World) -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether a process was interrupted, so that the run can stop after a whole step.

    All processes ask it after each step and hear the same.
    """
    signals: list[int] = []
    names = (signal.SIGINT, signal.SIGTERM)
    previous = {name: signal.getsignal(name) for name in names}

    def on_signal(number: int, _: object) -> None:
        signals.append(number)
        if world.is_first:
            print("stopping after this step ...", file=sys.stderr)
        signal.signal(number, previous[signal.Signals(number)])  # A second one does not wait.

    for name in names:
        signal.signal(name, on_signal)
    try:
        yield lambda: bool(world.total(torch.tensor(float(len(signals)), device=world.device)))
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
