"""``nelbo train``: trains a model, or goes on training it."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nelbo.cli.arguments import parse_steps
from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo.models.vdm import VDM
    from nelbo.train.config import TrainConfig


def train(
    preset: str | None = None,
    data: Path | None = None,
    out: Path | None = None,
    test: Path | None = None,
    finetune: str | None = None,
    steps: str | None = None,
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    device: Literal["auto", "cpu", "cuda"] = "auto",
    compile: bool = False,
    log_every: int = 50,
    checkpoint_every: int = 500,
    evaluate_every: int = 2000,
    dry_run: bool = False,
) -> None:
    """Trains a model into a run folder; the same command again goes on where it stopped, however that was.

    Start it under torchrun to share each batch among processes.

    Args:
        preset: What to train: cifar10-small, mnist-tiny, cifar10, cifar10-aug, imagenet32 or imagenet64. Needed unless
            --finetune names a model.
        data: The training images: a folder, zip, npz, npy, parquet or idx file.
        out: The run folder.
        test: Images to measure the bound on as the run goes; without it, the n_held_out last of --data, which are
            kept from training.
        finetune: A bundled model's name or a model folder to begin with. Without --preset the run is a short one made
            for fine-tuning; with it, the preset's model must have the same network.
        steps: T of the bound that is minimised, or inf for continuous time; without it, the preset's.
        set: Changes a field of the configuration, FIELD=VALUE, with dots into nested fields. Repeat for more.
        device: Where to compute.
        compile: Compile the training step: a slow start, then faster steps.
        log_every: Steps between lines of metrics.
        checkpoint_every: Steps between checkpoints.
        evaluate_every: Steps between test bounds, sample grids and refreshed model folders.
        dry_run: Print the configuration and what it costs, and do nothing.
    """
    from nelbo.train.config import override

    start = _start(finetune)
    config = override(_base(preset, start), [*set, *_steps_setting(steps)])
    config.model.noise_schedule.build()  # Gammas that do not increase are refused before data are read.
    if start is not None:
        from nelbo.train.finetune import check_start

        check_start(config.model, start, str(finetune))
    if dry_run:
        from nelbo.train.cost import describe_run

        print(describe_run(config))
        return
    if data is None or out is None:
        raise NelboError("training needs --data IMAGES and --out RUN (or --dry-run to see what it would cost)")

    from nelbo.data.open import open_images
    from nelbo.train.inputs import hold_out
    from nelbo.train.loop import Intervals
    from nelbo.train.run import Run

    images, held_out = hold_out(open_images(data), 0 if test else config.n_held_out)
    intervals = Intervals(log_every, checkpoint_every, evaluate_every)
    run = Run(config, images, open_images(test) if test else held_out, out, intervals, compile, start)
    is_complete = run.go(device)
    if not is_complete:
        sys.exit(130)
    if os.environ.get("RANK", "0") == "0":
        print(f"model: {out / 'model'}")


def _start(finetune: str | None) -> "VDM | None":
    """Returns the model to fine-tune, if one is named."""
    if finetune is None:
        return None
    from nelbo.interop.any_model import load
    from nelbo.train.finetune import trainable

    return trainable(load(finetune), finetune)


def _base(preset: str | None, start: "VDM | None") -> "TrainConfig":
    """Returns the configuration that settings change."""
    if preset is not None:
        from nelbo.train.presets import preset as find_preset

        return find_preset(preset)
    if start is None:
        raise NelboError("training needs --preset NAME, or --finetune MODEL to begin with a trained one")
    from nelbo.train.finetune import finetuning

    return finetuning(start.config)


def _steps_setting(steps: str | None) -> list[str]:
    if steps is None:
        return []
    n_steps = parse_steps(steps)
    if isinstance(n_steps, Path):
        raise NelboError(f"--steps of training is a number of steps from 1 on, or inf, got the file {steps}")
    return ["n_steps=null" if n_steps is None else f"n_steps={n_steps}"]
