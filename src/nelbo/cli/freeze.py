"""``nelbo freeze``: turns a model into integers, which give the same answers on every machine."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from nelbo.cli.compress import Flag
from nelbo.errors import NelboError


def freeze(
    model: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path | None, tyro.conf.Positional] = None,
    data: str | None = None,
    n_images: int = 32,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    force: Flag = False,
) -> None:
    """Turns a model into integers: its answers are then the same, to the last bit, on every machine.

    Prints what that costs in bits per dimension; a model that would lose more than 0.001 is refused, and so is one
    with an operation that is not covered or whose sums could not be proved exact.

    Args:
        model: A bundled model's name or a model folder.
        out: The file to write; by default the frozen form in the model's folder, which both sides then need alone.
        data: Images like those that the model was trained on, never of a test set: a folder, .zip, .npz, .npy or
            .parquet. Without any, the model draws them.
        n_images: Images to use: half of them set the limits of the integers, half measure the cost.
        seed: The choice of images and the noise.
        device: Where the trained model computes.
        force: Overwrite a file that is there, without which archives that name it cannot be decoded.
    """
    if n_images < 2:
        raise NelboError(f"--n-images is at least 2, one to set limits and one to measure, got {n_images}")

    from nelbo.cli.archive_files import check_free
    from nelbo.cli.archive_models import model_folder_of
    from nelbo.cli.arguments import progress_bar
    from nelbo.integer.freeze import N_GAMMAS, choose_images
    from nelbo.integer.freeze import freeze as run
    from nelbo.integer.frozen_files import FROZEN
    from nelbo.models.folder import load
    from nelbo.runtime.device import choose_device

    out = model_folder_of(model) / FROZEN if out is None else out
    check_free(out, force)
    loaded = load(model, choose_device(device))
    images = choose_images(loaded, data, n_images, seed)
    with progress_bar(2 * N_GAMMAS, "level") as advance:
        frozen = run(loaded, images, data or "samples of the model", seed, progress=advance)
    frozen.save(out)
    cost = frozen.header.cost
    if cost is not None:
        print(f"{out}: costs {cost.bpd:.5f} bits per dimension, measured on {cost.n_images} images ({cost.data})")
    print(f"executor {frozen.executor(1)}, fingerprint {frozen.fingerprint[:16]}")
