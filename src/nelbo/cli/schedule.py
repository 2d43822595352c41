"""``nelbo schedule``: finds the time schedules with the best bound for any budgets of network calls."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from nelbo.cli.arguments import check_batch_size, parse_numbers
from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo import ImageMoments
    from nelbo.models.interface import DiffusionModel
    from nelbo.time_schedule.error_table import ErrorTable


def schedule(
    model: Annotated[str, tyro.conf.Positional],
    out: Path,
    data: Path | None = None,
    table: Path | None = None,
    budgets: str = "4,8,16,32,64",
    reverse: str = "spectral",
    exits: str = "all",
    fixed_ends: bool = False,
    entry: Literal["normal", "gaussian"] = "normal",
    gammas: int | None = None,
    images: int = 128,
    seed: int = 0,
    batch_size: int = 32,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Finds the schedules of K network calls with the best bound, for every K at once, from one pass over images.

    Writes OUT/K.safetensors for `nelbo eval`, `nelbo sample` and the codec, schedules.json, schedules.png, and the
    error table (errors.safetensors), with which a second search takes seconds. Interrupt it and run it again: it goes
    on. Started under torchrun, processes and their devices share the noise levels, for the same table.

    Args:
        model: A bundled model's name, a model folder or one of diffusers, an id on the hub, or FILE.py:FUNCTION.
        out: The folder to write to.
        data: The images to measure errors on, not those the schedules are judged on: a folder, zip, npz, parquet, ...
        table: An error table made before, in place of images; a bundled model comes with one.
        budgets: The numbers of network calls.
        reverse: The reverse kernel of the schedules; the report names the others and what they would cost.
        exits: How the chain may leave for the data, such as decoder,channels; decoder is the model's own, and all is
            that and every residual decoder of the error table.
        fixed_ends: Enter at the noisiest level and leave by the model's own decoder from where it was trained.
        entry: What the chain starts from: normal is N(0, I); gaussian has the mean and the spectrum of the images (of
            --data, else those that the model brings) and saves a call or two, for evaluation and samples only: the
            codec does not take it.
        gammas: Noise levels of the error table, at which schedules may stop: by default 1000, of a discrete-time model
            at most 250 of its own, chosen where the cost is.
        images: Images of the data to use, chosen at random.
        seed: The randomness of the choice and of the noise.
        batch_size: Images a network call, at most 32.
        precision: The network's arithmetic; auto is the fastest that does not change the bound.
        device: Where to compute.
    """
    check_batch_size(batch_size)
    wanted = parse_numbers(budgets, "--budgets")
    allowed = None if exits == "all" else [part.strip() for part in exits.split(",") if part.strip()]
    if images < 1:
        raise NelboError(f"--images is a number from 1 on, got {images}")
    if data is not None and table is not None:
        raise NelboError("give --data or --table, not both: a table stands for images it was measured on")

    from nelbo.cli.gathering import gather, loaded_table
    from nelbo.data.open import open_images
    from nelbo.interop.any_model import load
    from nelbo.models.provenance import provenance
    from nelbo.runtime.agreement import agree, one_of_many
    from nelbo.runtime.atomic import check_writable
    from nelbo.runtime.bundled import bundled_tables

    with one_of_many(device) as world:

        def prepare() -> "tuple[DiffusionModel, ErrorTable | None]":
            check_writable(out / "schedules.json")
            loaded = load(model, world.device)
            known = loaded_table(loaded, table or bundled_tables().get(model), model) if data is None else None
            return loaded, known

        loaded, errors = agree(world, prepare)
        if data is not None:
            path = out / "errors.safetensors"
            errors = gather(loaded, data, path, gammas, images, seed, batch_size, precision, world)
        assert errors is not None, "gathered or loaded"
        free = not fixed_ends

        def search() -> None:
            source = provenance(loaded, model, None if data is None else open_images(data), seed)
            moments = _moments(loaded, data) if entry == "gaussian" else None
            _search(loaded, errors, wanted, reverse, allowed, free, moments, out, source)

        agree(world, lambda: search() if world.is_first else None)


def _moments(loaded: "DiffusionModel", data: Path | None) -> "ImageMoments":
    """Returns the moments of the images that errors are measured on, or of those that the model was trained on."""
    from nelbo.data.open import open_images
    from nelbo.models.moments import image_moments

    if data is not None:
        return image_moments(open_images(data))
    if loaded.image_moments is None:
        raise NelboError("--entry gaussian: the model brings no mean and spectrum of its images; give images by --data")
    return loaded.image_moments


def _search(
    loaded: "DiffusionModel",
    errors: "ErrorTable",
    wanted: list[int],
    reverse: str,
    allowed: list[str] | None,
    is_free: bool,
    moments: "ImageMoments | None",
    out: Path,
    source: Mapping[str, Any],
) -> None:
    """Finds, writes and prints the schedules."""
    from nelbo.interop.ddpm import DDPM
    from nelbo.interop.export import pipeline_schedules, save_timesteps
    from nelbo.time_schedule.error_table import doubt
    from nelbo.time_schedule.optimise import optimal_schedules
    from nelbo.time_schedule.report import SAMPLE_NOTE, report, supported_kernels

    found = optimal_schedules(errors, wanted, reverse, allowed, is_free, is_free, moments)
    result = report(errors, found, supported_kernels(errors), wanted)
    for budget, each in result.schedules.items():
        each.save(out / f"{budget}.safetensors")
    result.save_json(out / "schedules.json", source)
    print(result.text())
    print(f"bits per dimension, predicted from {result.n_images} images; {result.search} search. {SAMPLE_NOTE}")
    if warning := doubt(errors, reverse):
        print(f"warning: {warning}")
    if isinstance(loaded, DDPM):
        walked = pipeline_schedules(errors, loaded, wanted)
        save_timesteps(out / "timesteps.json", loaded, {budget: walked[budget] for budget in wanted})
        bounds = ", ".join(f"{walked[budget].bpd:.4f} in {budget}" for budget in wanted)
        print(
            f"for pipelines ({loaded.reverse_kernel} kernel, own last step): {bounds} steps: {out / 'timesteps.json'}"
        )
    try:
        result.save_figure(out / "schedules.png")
    except NelboError as error:
        print(f"no figure: {error}")
    print(f"schedules: {', '.join(str(out / f'{budget}.safetensors') for budget in result.schedules)}")
