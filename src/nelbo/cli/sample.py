"""``nelbo sample``: draws images from a model."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from nelbo.cli.arguments import check_batch_size, parse_seeds, parse_steps
from nelbo.errors import NelboError


def sample(
    model: Annotated[str, tyro.conf.Positional],
    out: Path,
    steps: str = "250",
    seeds: str = "0-15",
    classes: str | None = None,
    batch_size: int = 64,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Draws images from a model by ancestral sampling: OUT/grid.png and one OUT/SEED.png for each seed.

    Args:
        model: A bundled model's name, a model folder or one of diffusers, an id on the hub, or FILE.py:FUNCTION.
        out: The folder to write to.
        steps: Steps of the chain, each one network evaluation; or the file of a time schedule.
        seeds: One image for each seed: numbers and ranges such as 0-63 or 1,5,7-9.
        classes: Of a class-conditional model, the classes to draw, written like the seeds: seed k is of class number k
            of them, counted in circles. Without it, all.
        batch_size: Images walked together.
        precision: The network's arithmetic; auto is the fastest that the model is known to bear.
        device: Where to compute.
    """
    check_batch_size(batch_size)
    numbers, parsed = parse_seeds(seeds), parse_steps(steps)
    wanted = None if classes is None else parse_seeds(classes, "--classes")
    if parsed is None:
        raise NelboError("--steps inf: sampling needs a number of steps, such as 250")

    from nelbo.cli.arguments import open_steps, progress_bar
    from nelbo.data.pictures import save_grid, save_png
    from nelbo.interop.any_model import load
    from nelbo.runtime.atomic import check_writable
    from nelbo.runtime.device import choose_device
    from nelbo.sampling import sample as draw

    n_steps = open_steps(parsed)
    assert n_steps is not None
    loaded = load(model, choose_device(device))
    check_writable(out / "grid.png")
    per_image = n_steps if isinstance(n_steps, int) else n_steps.n_steps
    n_calls = per_image * -(-len(numbers) // batch_size)
    with progress_bar(n_calls, "call") as advance:
        images = draw(loaded, n_steps, numbers, batch_size, precision, advance, wanted)
    for number, image in zip(numbers, images, strict=True):
        save_png(image, out / f"{number:06d}.png")
    save_grid(images, out / "grid.png")
    print(f"{len(numbers)} images: {out / 'grid.png'}")
