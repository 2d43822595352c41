"""Run folders: everything one training run reads and leaves, so that the same call again goes on where it stopped.

``config.json`` what the run is, ``log.txt`` what it said, ``metrics.jsonl`` and ``tensorboard/`` its numbers,
``samples/`` grids of images, ``checkpoints/`` its states, ``model/`` the averaged weights as a model folder, and
``best/`` those with the lowest held-out bound so far. ``docs/runs.md`` describes each.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nelbo.data.images import Images
from nelbo.data.pictures import grid, save_png
from nelbo.evaluation import Evaluation, evaluate
from nelbo.models.folder import save
from nelbo.models.moments import image_moments
from nelbo.models.vdm import VDM
from nelbo.runtime.device import resolve_precision
from nelbo.runtime.processes import World, join_world
from nelbo.sampling import sample
from nelbo.train.card import card
from nelbo.train.checkpoint import Checkpoints
from nelbo.train.config import TrainConfig
from nelbo.train.cost import settings_fit
from nelbo.train.diary import Diary
from nelbo.train.finetune import digest
from nelbo.train.inputs import check_images, check_labels
from nelbo.train.loop import Intervals, Trainer, train
from nelbo.train.run_folder import claim_folder, extension
from nelbo.train.stopping import asked_to_stop
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
            before = claim_folder(self.folder, self._identity(world), world.is_first)
            return self._train(trainer, before)

    def _trainer(self, world: World) -> Trainer:
        """Returns a trainer whose network has been seen to work."""
        with settings_fit(), torch.no_grad():
            trainer = Trainer(self.config, self.data, world, self.compiled, self.start)
            z = torch.zeros(1, *self.config.model.image_shape, device=world.device)
            labels = torch.zeros(1, dtype=torch.int64, device=world.device) if self.config.model.n_classes else None
            trainer.average.model.given(labels).predict(z, torch.zeros(1, device=world.device))
            return trainer

    def _train(self, trainer: Trainer, before: int | None) -> bool:
        world, checkpoints = trainer.world, Checkpoints(self.folder / "checkpoints")
        start = max(checkpoints.steps(), default=0)
        metrics = Metrics(self.folder, start, self.config.batch_size) if world.is_first else None
        with Diary(trainer, self.folder, start) as diary, asked_to_stop(world) as must_stop:
            if before is not None:
                diary.say(extension(self.config, before, start))

            def on_log(step: int, loss: float) -> None:
                if metrics:
                    metrics.write(step, {"loss_bpd": loss, **diary.numbers()})

            def on_evaluate(step: int) -> None:
                if metrics:
                    diary.pause("measuring the held-out bound and drawing samples")
                    diary.say(self._evaluate(trainer, metrics, step))
                world.wait()

            is_complete = train(trainer, checkpoints, self.intervals, on_log, on_evaluate, must_stop, diary.on_step)
            diary.end(is_complete)
            return is_complete

    def _evaluate(self, trainer: Trainer, metrics: Metrics, step: int) -> str:
        """Measures the averaged model as it is trained, draws samples from it, writes it, and says what it is worth."""
        model = trainer.average.model
        result: Evaluation | None = None
        is_best = False
        if self.test is not None:
            result = evaluate(model, self.test, self.config.n_steps, precision=trainer.precision)
            is_best = result.bpd <= metrics.lowest("test_bpd")
            metrics.write(step, {"test_bpd": result.bpd, "test_standard_error": result.standard_error})
        if model.image_moments is None:
            model.image_moments = image_moments(self.data)
        n_steps = min(self.config.n_steps or SAMPLE_STEPS, SAMPLE_STEPS)
        samples = grid(sample(model, n_steps, range(N_SAMPLES), precision=trainer.precision))
        save_png(samples, self.folder / "samples" / f"{step:09d}.png")
        metrics.show(step, "samples", samples)
        for name in ("model", "best") if is_best else ("model",):
            save(model, self.folder / name, card(trainer, self.test, result))
        if result is None:
            return f"step {step}: no images are held out"
        best = ", the best so far" if is_best else ""
        return f"step {step}: held-out bound {result.bpd:.4f} ± {result.standard_error:.4f} bits per dimension{best}"

    def _identity(self, world: World) -> dict[str, Any]:
        """Returns what must not change between the calls of one run."""
        fields = self.config.model_dump(mode="json")
        fields["precision"] = resolve_precision(self.config.precision, world.device)
        if self.start is not None:
            fields["start"] = digest(self.start)
        fields["data"] = {"n_images": len(self.data), "shape": list(self.data.shape)}
        if self.data.preparation:
            fields["data"]["preparation"] = self.data.preparation
        return fields
