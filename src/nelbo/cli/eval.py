"""``nelbo eval``: measures the bound of a model on images."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from nelbo.cli.arguments import check_batch_size, parse_steps


def evaluate(
    model: Annotated[str, tyro.conf.Positional],
    data: Path,
    steps: str = "inf",
    passes: int = 1,
    seed: int = 0,
    batch_size: int = 128,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    json: Path | None = None,
) -> None:
    """Measures the bound of a model on every image of a data set, in bits per dimension, with standard errors.

    Args:
        model: A bundled model's name or a model folder.
        data: The images: a folder, zip, npz, npy, parquet or idx file.
        steps: T of the T-step bound, inf for continuous time, or the file of a time schedule.
        passes: Network evaluations an image, at times spread evenly; walks of the whole chain of a time schedule.
        seed: The randomness of the estimate.
        batch_size: Images a network call; changes nothing but speed and memory.
        precision: The network's arithmetic; auto is the device's fastest.
        device: Where to compute.
        json: Also write the result to this file.
    """
    parsed = parse_steps(steps)
    check_batch_size(batch_size)

    from nelbo.atomic import check_writable
    from nelbo.cli.arguments import open_steps, progress_bar
    from nelbo.data.images import open_images
    from nelbo.device import choose_device
    from nelbo.evaluation import evaluate as measure
    from nelbo.evaluation import table
    from nelbo.interop.any_model import load

    n_steps = open_steps(parsed)
    loaded = load(model, choose_device(device))
    images = open_images(data)
    if json is not None:
        check_writable(json)
    with progress_bar(len(images), "img") as advance:
        result = measure(loaded, images, n_steps, seed, passes, batch_size, precision, advance)
    print(table([result]))
    print(f"bits per dimension ± standard error; {result.precision}, seed {result.seed}")
    if json is not None:
        result.save(json)
