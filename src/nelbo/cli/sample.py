"""``nelbo sample``: draws images from a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nelbo.cli.arguments import check_batch_size, parse_seeds, parse_steps
from nelbo.errors import NelboError

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor

    from nelbo.models.interface import DiffusionModel
    from nelbo.time_schedule.schedule import TimeSchedule


def sample(
    model: Annotated[str, tyro.conf.Positional],
    out: Path,
    steps: str = "32",
    sampler: str = "auto",
    eta: float | None = None,
    churn: float | None = None,
    clip: bool = True,
    images: str | None = None,
    seeds: str = "0-15",
    classes: str | None = None,
    batch_size: int = 64,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Draws images from a model: OUT/grid.png and one OUT/SEED.png for each seed.

    Started under torchrun, processes and their devices share the seeds, for the same images but for rounding.

    Args:
        model: A bundled model's name, a model folder or one of diffusers, an id on the hub, or FILE.py:FUNCTION.
        out: The folder to write to.
        steps: Network calls; all for every level of a discrete-time model; or the file of a time schedule, whose chain
            is walked.
        sampler: auto (DPM-Solver++ of second order), ancestral (the chain of the bound: give it 250 steps), ddim, heun,
            dpm-solver++, dpm-solver++-3m or dpm-solver++-sde.
        eta: The noise that ddim adds at each step, from 0 to 1.
        churn: The noise that heun adds, EDM's S_churn.
        clip: Whether predicted images are clipped to the range of pixels.
        images: Images such as the model was trained on, whose mean and spectrum a sampler starts with; bundled and
            trained models bring them.
        seeds: One image for each seed: numbers and ranges such as 0-63 or 1,5,7-9.
        classes: Of a class-conditional model, the classes to draw, written like the seeds, assigned to the seeds
            round-robin. Without it, all.
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
    from nelbo.cli.cost import say_cost
    from nelbo.data.open import open_images
    from nelbo.interop.any_model import load
    from nelbo.models.moments import image_moments
    from nelbo.runtime.agreement import agree, collect, one_of_many
    from nelbo.runtime.atomic import check_writable
    from nelbo.samplers.table import make_solver
    from nelbo.sampling import sample as draw

    settings = {name: value for name, value in (("eta", eta), ("churn", churn)) if value is not None}
    solver = make_solver(sampler, settings) if settings else sampler

    with one_of_many(device) as world:

        def prepare() -> "tuple[DiffusionModel, int | TimeSchedule]":
            n_steps = open_steps(parsed)
            assert n_steps is not None, "refused above"
            loaded = load(model, world.device)
            if images is not None:
                loaded.image_moments = image_moments(open_images(images))
            check_writable(out / "grid.png")
            if n_steps != "all":
                return loaded, n_steps
            if loaded.gammas is None:
                raise NelboError("--steps all: the model knows any noise level; give a number of steps, such as 250")
            return loaded, len(loaded.gammas)

        loaded, n_steps = agree(world, prepare)
        mine = world.share(len(numbers))
        ours, quiet = numbers[mine.start : mine.stop], not world.is_first
        per_image = n_steps if isinstance(n_steps, int) else n_steps.n_steps
        agree(world, lambda: say_cost(loaded, per_image * len(ours), batch_size, precision, quiet))

        def work() -> "list[UInt8[Tensor, 'c h w']]":
            if not ours:
                return []
            with progress_bar(per_image * -(-len(ours) // batch_size), "call", quiet) as advance:
                drawn = draw(loaded, n_steps, ours, batch_size, precision, advance, wanted, sampler=solver, clip=clip)
                return list(drawn)

        pictures = [image for part in collect(world, agree(world, work)) for image in part]
        agree(world, lambda: _write(pictures, numbers, out) if world.is_first else None)


def _write(images: "list[UInt8[Tensor, 'c h w']]", numbers: list[int], out: Path) -> None:
    import torch

    from nelbo.data.pictures import save_grid, save_png

    for number, image in zip(numbers, images, strict=True):
        save_png(image, out / f"{number:06d}.png")
    save_grid(torch.stack(images), out / "grid.png")
    print(f"{len(numbers)} images: {out / 'grid.png'}")
