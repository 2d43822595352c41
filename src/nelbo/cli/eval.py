"""``nelbo eval``: measures the bound of a model on images."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from nelbo.cli.arguments import check_batch_size, parse_steps
from nelbo.errors import NelboError


def evaluate(
    model: Annotated[str, tyro.conf.Positional],
    data: Path,
    steps: str = "inf",
    passes: int = 1,
    seed: int = 0,
    batch_size: int = 128,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    limit: int | None = None,
    method: Literal["bound", "ode"] = "bound",
    dequantisation: Literal["truncated_normal", "uniform"] = "truncated_normal",
    trace: Literal["hutchinson", "exact"] = "hutchinson",
    tolerance: float = 1e-5,
    json: Path | None = None,
) -> None:
    """Measures the bound of a model on every image of a data set, in bits per dimension, with standard errors.

    Args:
        model: A bundled model's name, a model folder or one of diffusers, an id on the hub, or FILE.py:FUNCTION.
        data: The images: a folder, zip, npz, npy, parquet or idx file.
        steps: T of the T-step bound, inf for continuous time, or the file of a time schedule.
        passes: Network evaluations an image, at times spread evenly; walks of the whole chain of a time schedule;
            with --method ode, draws of the dequantisation noise in the importance-weighted average.
        seed: The randomness of the estimate.
        batch_size: Images a network call; changes nothing but speed and memory.
        precision: The network's arithmetic; auto is the fastest that does not change the bound.
        device: Where to compute.
        limit: Only the first so many images.
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

    from nelbo.cli.arguments import open_steps, progress_bar
    from nelbo.data.open import open_images
    from nelbo.evaluation import evaluate as measure
    from nelbo.evaluation import table
    from nelbo.interop.any_model import load
    from nelbo.models.provenance import provenance
    from nelbo.ode import ode_likelihood
    from nelbo.runtime.atomic import check_writable
    from nelbo.runtime.device import choose_device

    n_steps = open_steps(parsed)
    loaded = load(model, choose_device(device))
    images = open_images(data)
    if limit is not None:
        images = images.select(range(min(limit, len(images))))
    if json is not None:
        check_writable(json)
    with progress_bar(len(images), "image") as advance:
        if method == "ode":
            flow = ode_likelihood(
                loaded, images, dequantisation, trace, passes, tolerance, tolerance, seed, batch_size, advance
            )
            print(flow.summary())
            if json is not None:
                flow.save(json, provenance(loaded, model, images, seed))
            return
        result = measure(loaded, images, n_steps, seed, passes, batch_size, precision, advance)
    print(table([result]))
    print(f"bits per dimension ± standard error; {result.precision}, seed {result.seed}")
    if json is not None:
        result.save(json, provenance(loaded, model, images, seed))
