"""``nelbo eval``: measures the bound of a model on images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nelbo.cli.arguments import check_batch_size, parse_steps
from nelbo.errors import NelboError

if TYPE_CHECKING:
    import torch

    from nelbo.data.images import Images
    from nelbo.models.interface import DiffusionModel
    from nelbo.runtime.processes import World
    from nelbo.time_schedule.error_table import ErrorTable
    from nelbo.time_schedule.schedule import TimeSchedule


def evaluate(
    model: Annotated[str, tyro.conf.Positional],
    data: Path,
    steps: str = "inf",
    table: Path | None = None,
    passes: int = 1,
    seed: int = 0,
    batch_size: int = 128,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    limit: int | None = None,
    resize: int | None = None,
    crop: int | None = None,
    method: Literal["bound", "ode"] = "bound",
    dequantisation: Literal["truncated_normal", "uniform"] = "truncated_normal",
    trace: Literal["hutchinson", "exact"] = "hutchinson",
    tolerance: float = 1e-5,
    json: Path | None = None,
) -> None:
    """Measures the bound of a model on every image of a data set, in bits per dimension, with standard errors.

    Each pass takes an image through one random step, drawn where the cost is: of a discrete-time model found by a pilot
    pass of 128 network calls, of a bundled model known from its error table. Started under torchrun, processes and
    their devices share the images, with the same result but for rounding.

    Args:
        model: A bundled model's name, a model folder or one of diffusers, an id on the hub, or FILE.py:FUNCTION.
        data: The images: a folder, zip, npz, npy, parquet or idx file.
        steps: T of the T-step bound; all to walk every level of a discrete-time model; inf for continuous time, or for
            single steps of a discrete-time model's whole chain; or the file of a time schedule.
        table: The model's error table, which says where to draw steps; without it a pilot pass does.
        passes: Network evaluations an image, at times spread evenly; walks of the whole chain of a time schedule;
            with --method ode, draws of the dequantisation noise in the importance-weighted average.
        seed: The randomness of the estimate.
        batch_size: Images a network call; changes nothing but speed and memory.
        precision: The network's arithmetic; auto is the fastest that does not change the bound.
        device: Where to compute.
        limit: Only the first so many images.
        resize: Shrink or enlarge pictures of any size until their shorter side has so many pixels.
        crop: Use the square of so many pixels a side in their middle.
        method: bound, the variational bound; or ode, the likelihood by probability flow, at a thousand times the cost.
        dequantisation: With --method ode, the noise that turns 8-bit values into numbers with a density.
        trace: With --method ode, how the flow's divergence is found: by one random probe, or one pass a dimension.
        tolerance: With --method ode, the integrator's relative and absolute tolerance.
        json: Also write the result to this file.
    """
    parsed = parse_steps(steps)
    check_batch_size(batch_size)
    if limit is not None and limit < 1:
        raise NelboError(f"--limit is a number of images from 1 on, got {limit}")
    if method == "ode" and (parsed is not None or precision == "bfloat16"):
        raise NelboError("--method ode follows continuous time in float32: leave out --steps and --precision")

    if method == "ode" and table is not None:
        raise NelboError("--method ode draws no steps: leave out --table")

    from nelbo.runtime.agreement import agree, one_of_many

    with one_of_many(device) as world:
        inputs = agree(world, lambda: _inputs(model, data, (resize, crop), limit, parsed, table, json, world.device))
        if method == "ode":
            agree(world, lambda: _alone(world))
            _follow_flow(inputs, dequantisation, trace, passes, tolerance, seed, batch_size, json)
        else:
            _measure(world, inputs, passes, seed, batch_size, precision, json)


@dataclass(frozen=True)
class _Inputs:
    """What the arguments name."""

    name: str
    model: "DiffusionModel"
    images: "Images"
    n_steps: "int | TimeSchedule | Literal['all'] | None"
    table: "ErrorTable | None"


def _inputs(
    model: str,
    data: Path,
    fit: tuple[int | None, int | None],
    limit: int | None,
    steps: int | Path | Literal["all"] | None,
    table: Path | None,
    json: Path | None,
    device: "torch.device",
) -> _Inputs:
    from nelbo.cli.arguments import open_pictures, open_steps
    from nelbo.cli.gathering import loaded_table
    from nelbo.interop.any_model import load
    from nelbo.runtime.atomic import check_writable

    n_steps = open_steps(steps)
    loaded = load(model, device)
    images = open_pictures(data, *fit)
    if limit is not None:
        images = images.select(range(min(limit, len(images))))
    if json is not None:
        check_writable(json)
    return _Inputs(model, loaded, images, n_steps, None if table is None else loaded_table(loaded, table, model))


def _alone(world: "World") -> None:
    if world.size > 1:
        raise NelboError("--method ode runs in one process: start it without torchrun, or on parts of the images")


def _measure(
    world: "World", inputs: _Inputs, passes: int, seed: int, batch_size: int, precision: str, json: Path | None
) -> None:
    from nelbo.cli.arguments import progress_bar
    from nelbo.cli.cost import say_cost
    from nelbo.evaluation import evaluate as measure
    from nelbo.evaluation import table as as_text
    from nelbo.models.provenance import provenance
    from nelbo.runtime.agreement import agree
    from nelbo.time_schedule.method import calls_per_pass

    mine, quiet = len(world.share(len(inputs.images))), not world.is_first
    n_calls = mine * passes * calls_per_pass(inputs.model, inputs.n_steps)
    agree(world, lambda: say_cost(inputs.model, n_calls, batch_size, precision, quiet))
    with progress_bar(mine, "image", quiet) as advance:
        result = measure(
            inputs.model,
            inputs.images,
            inputs.n_steps,
            seed,
            passes,
            batch_size,
            precision,
            advance,
            inputs.table,
            world,
        )
    if not world.is_first:
        return
    print(as_text([result]))
    pilot = f" and {result.n_pilot_calls:,} of a pilot pass" if result.n_pilot_calls else ""
    print(f"steps: {_DRAWN[result.drawn]}; {result.n_calls:,} network calls on an image{pilot}")
    print(f"bits per dimension ± standard error; {result.precision}, seed {result.seed}")
    if json is not None:
        result.save(json, provenance(inputs.model, inputs.name, inputs.images, seed))


_DRAWN = {
    "evenly": "drawn evenly",
    "pilot": "drawn by their cost in a pilot pass",
    "table": "drawn by their cost in an error table",
    "all": "all walked",
}


def _follow_flow(
    inputs: _Inputs,
    dequantisation: Literal["truncated_normal", "uniform"],
    trace: Literal["hutchinson", "exact"],
    passes: int,
    tolerance: float,
    seed: int,
    batch_size: int,
    json: Path | None,
) -> None:
    from nelbo.cli.arguments import progress_bar
    from nelbo.models.provenance import provenance
    from nelbo.ode import ode_likelihood

    with progress_bar(len(inputs.images), "image") as advance:
        flow = ode_likelihood(
            inputs.model, inputs.images, dequantisation, trace, passes, tolerance, tolerance, seed, batch_size, advance
        )
    print(flow.summary())
    if json is not None:
        flow.save(json, provenance(inputs.model, inputs.name, inputs.images, seed))
