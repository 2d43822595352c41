"""``nelbo report``: one page that shows what a model is worth."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nelbo.cli.compress import Flag
from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo.models.interface import DiffusionModel
    from nelbo.time_schedule.error_table import ErrorTable


def report(
    model: Annotated[str, tyro.conf.Positional],
    data: Path,
    resize: int | None = None,
    crop: int | None = None,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html"),
    limit: int = 256,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    force: Flag = False,
) -> None:
    """Writes one self-contained page on a model: bound, loss by noise level, hard and easy images, few steps, samples.

    Args:
        model: A bundled model's name, a model folder or one of diffusers, or a run folder, with its training curves.
        data: The images to judge it on: a folder, zip, npz, npy, parquet or idx file.
        resize: Shrink or enlarge pictures of any size until their shorter side has so many pixels.
        crop: Use the square of so many pixels a side in their middle.
        out: The page, an HTML file.
        limit: Use only the first so many images.
        seed: The randomness.
        device: Where to compute.
        force: Overwrite a file that is there.
    """
    if limit < 2:
        raise NelboError(f"--limit is a number of images from 2 on, got {limit}")

    import sys

    from nelbo.cli.archive_files import check_free
    from nelbo.cli.arguments import open_pictures
    from nelbo.interop.any_model import load
    from nelbo.report.figures import figures
    from nelbo.report.measure import measure
    from nelbo.report.page import check_installed, save_page
    from nelbo.runtime.device import choose_device

    check_installed()
    check_free(out, force)
    run = Path(model)
    metrics = run / "metrics.jsonl"
    is_run = (run / "model" / "config.json").is_file() and metrics.is_file()
    loaded = load(run / "model" if is_run else model, choose_device(device))
    images = open_pictures(data, resize, crop)
    found = measure(
        loaded,
        model,
        images.select(range(min(limit, len(images)))),
        _table(loaded, model),
        metrics if is_run else None,
        seed,
        lambda text: print(f"measuring {text} ...", file=sys.stderr),
    )
    save_page(found, figures(found), out)
    print(f"{out}: {found.evaluation.bpd:.4f} ± {found.evaluation.standard_error:.4f} bits per dimension")


def _table(model: "DiffusionModel", name: str) -> "ErrorTable | None":
    """Returns the error table that comes with a bundled model."""
    from nelbo.cli.gathering import loaded_table
    from nelbo.runtime.bundled import bundled_tables

    path = bundled_tables().get(name)
    return None if path is None else loaded_table(model, path, name)
