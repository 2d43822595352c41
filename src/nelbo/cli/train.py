"""``nelbo train``: trains a model, or goes on training it."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nelbo.cli.arguments import open_pictures, parse_steps
from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo.models.vdm import VDM
    from nelbo.train.config import TrainConfig


def train(
    preset: str | None = None,
    data: Path | None = None,
    out: Path | None = None,
    config: Path | None = None,
    resize: int | None = None,
    crop: int | None = None,
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
    json: bool = False,
) -> None:
    """Trains a model into a run folder; the same command again resumes after any interruption.

    The same command with a larger n_images makes a run longer. Start it under torchrun to share each batch among
    processes.

    Args:
        preset: What to train: cifar10-small, photo-small, mnist-tiny, cifar10, cifar10-aug, imagenet32 or imagenet64.
            Needed unless --finetune names a model or --config a file.
        data: The training images: a folder, zip, npz, npy, parquet or idx file.
        out: The run folder.
        config: A configuration in place of a preset, JSON or YAML: what --dry-run --json prints, or the config.json of
            another run.
        resize: Shrink or enlarge pictures by Lanczos's filter until their shorter side has so many pixels; of what is
            then no square, the middle is used.
        crop: Use square windows of so many pixels a side: at random places for training, the middle for the bound.
        test: Images to measure the bound on as the run goes; without it, the n_held_out last of --data, which are
            kept from training: at most a tenth of them, unless --set says so.
        finetune: A bundled model's name or a model folder to begin with. Without --preset the run is a short one made
            for fine-tuning; with it, the preset's model must have the same network.
        steps: T of the bound that is minimised, or inf for continuous time; without it, the preset's.
        set: Changes a field of the configuration, FIELD=VALUE, with dots into nested fields. Repeat for more.
        device: Where to compute.
        compile: Compile the training step: a slow start, then faster steps.
        log_every: Steps between lines of metrics.
        checkpoint_every: Steps between checkpoints.
        evaluate_every: Steps between test bounds, sample grids and refreshed model folders.
        dry_run: Print the configuration, what it costs, and how long it takes on this machine; write nothing.
        json: Print --dry-run as JSON, which --config reads.
    """
    from nelbo.train.config import override

    start = _start(finetune)
    run_config = override(_base(preset, config, start), [*set, *_steps_setting(steps)])
    run_config.model.noise_schedule.build()  # Gammas that do not increase are refused before data are read.
    if start is not None:
        from nelbo.train.finetune import check_start

        check_start(run_config.model, start, str(finetune))
    if dry_run:
        _describe(run_config, device, compile, json)
        return
    if data is None or out is None:
        raise NelboError("training needs --data IMAGES and --out RUN (or --dry-run to see what it would cost)")

    from nelbo.train.inputs import hold_out
    from nelbo.train.loop import Intervals
    from nelbo.train.run import Run

    images = open_pictures(data, resize, crop)
    if not any(setting.startswith("n_held_out=") for setting in set):
        run_config = _with_hold_out(run_config, len(images), out)
    images, held_out = hold_out(images, 0 if test else run_config.n_held_out)
    intervals = Intervals(log_every, checkpoint_every, evaluate_every)
    run = Run(
        run_config, images, open_pictures(test, resize, crop) if test else held_out, out, intervals, compile, start
    )
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


def _describe(config: "TrainConfig", device: str, compiled: bool, as_json: bool) -> None:
    from nelbo.train import config_file
    from nelbo.train.cost import run_cost
    from nelbo.train.speed import images_per_second

    run_cost(config)  # A network that cannot be built is refused before it is timed.
    cost = run_cost(config, images_per_second(config, device, compiled))
    print((config_file.as_json if as_json else config_file.as_table)(config, cost))


def _with_hold_out(config: "TrainConfig", n_images: int, out: Path) -> "TrainConfig":
    """Returns a configuration that holds out what the begun run holds out, or else a part of the set."""
    from nelbo.train.inputs import scaled_hold_out
    from nelbo.train.run_folder import recorded

    begun = recorded(out, "n_held_out")
    n = begun if isinstance(begun, int) else scaled_hold_out(config.n_held_out, n_images)
    return config.model_copy(update={"n_held_out": n})


def _base(preset: str | None, config: Path | None, start: "VDM | None") -> "TrainConfig":
    """Returns the configuration that settings change."""
    if config is not None:
        if preset is not None:
            raise NelboError(f"give --preset {preset} or --config {config}, not both: each is a whole configuration")
        from nelbo.train.config_file import read_config

        return read_config(config)
    if preset is not None:
        from nelbo.train.presets import preset as find_preset

        return find_preset(preset)
    if start is None:
        raise NelboError("training needs --preset NAME, --config FILE, or --finetune MODEL to begin with a trained one")
    from nelbo.train.finetune import finetuning

    return finetuning(start.config)


def _steps_setting(steps: str | None) -> list[str]:
    if steps is None:
        return []
    n_steps = parse_steps(steps)
    if isinstance(n_steps, Path):
        raise NelboError(f"--steps of training is a number of steps from 1 on, or inf, got the file {steps}")
    return ["n_steps=null" if n_steps is None else f"n_steps={n_steps}"]
