"""``nelbo train``: trains a model, or goes on training it."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nelbo.errors import NelboError


def train(
    preset: str,
    data: Path | None = None,
    out: Path | None = None,
    test: Path | None = None,
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
        preset: What to train: cifar10-small, mnist, cifar10, cifar10-aug, imagenet32 or imagenet64.
        data: The training images: a folder, zip, npz, npy, parquet or idx file.
        out: The run folder.
        test: Images to measure the bound on as the run goes; without it, the n_held_out last of --data, which are
            kept from training.
        set: Changes a field of the configuration, FIELD=VALUE, with dots into nested fields. Repeat for more.
        device: Where to compute.
        compile: Compile the training step: a slow start, then faster steps.
        log_every: Steps between lines of metrics.
        checkpoint_every: Steps between checkpoints.
        evaluate_every: Steps between test bounds, sample grids and refreshed model folders.
        dry_run: Print the configuration and what it costs, and do nothing.
    """
    from nelbo.train.config import override
    from nelbo.train.presets import preset as find_preset

    config = override(find_preset(preset), set)
    if dry_run:
        from nelbo.train.cost import describe_run

        print(describe_run(config))
        return
    if data is None or out is None:
        raise NelboError("training needs --data IMAGES and --out RUN (or --dry-run to see what it would cost)")

    from nelbo.data.images import open_images
    from nelbo.train.loop import Intervals
    from nelbo.train.run import Run, hold_out

    images, held_out = hold_out(open_images(data), 0 if test else config.n_held_out)
    intervals = Intervals(log_every, checkpoint_every, evaluate_every)
    run = Run(config, images, open_images(test) if test else held_out, out, intervals, compile)
    is_complete = run.go(device)
    if not is_complete:
        print(f"stopped; the same command goes on from {out}", file=sys.stderr)
        sys.exit(130)
    if os.environ.get("RANK", "0") == "0":
        print(f"model: {out / 'model'}")
