"""Table 2 of the paper, re-enacted: the bound of a model by the number of steps of its chain.

    python runs/steps.py --data data/cifar10-test.npz --model cifar10-small --tuned out/tuned-10/model

Each image has the same noise and the same place u of its time in [0, 1) whatever T is (common random numbers), so that
differences are far more certain than the bounds themselves; both have their standard errors. A second model, fine-tuned
by `nelbo train --finetune cifar10-small --steps 10 ...`, is measured on the same draws.
"""

import argparse
import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

import nelbo
from nelbo.diffusion.bound import bound
from nelbo.diffusion.draws import evaluation_draws, evaluation_times, to_device
from nelbo.evaluation import standard_error
from nelbo.models.interface import DiffusionModel
from nelbo.runtime.atomic import new_file
from nelbo.runtime.device import autocast, fastest_precision, set_precision

STEPS = (10, 100, 250, 500, 1000, 10_000, None)
BATCH = 128


@torch.no_grad()
def bounds(model: DiffusionModel, images: nelbo.Images, seed: int) -> Float[Tensor, "t n"]:
    """Returns the bound of each image in bits per dimension for each number of steps, on common draws."""
    precision = fastest_precision(model.device)
    set_precision(model.eval(), model.device, precision)
    columns = []
    for start in tqdm(range(0, len(images), BATCH), disable=None):
        indices = range(start, min(start + BATCH, len(images)))
        batch = images.read(indices).to(model.device)
        draws = to_device(evaluation_draws(indices, model.image_shape, seed), model.device)
        with autocast(model.device, precision):
            columns.append(torch.stack([bound(model.given(), batch, draws, n_steps).bpd.cpu() for n_steps in STEPS]))
    return torch.cat(columns, dim=1)


def summary(values: Float[Tensor, "t n"], seed: int) -> list[dict[str, float | str]]:
    """Returns the mean bound for each number of steps and its excess over continuous time, with standard errors."""
    phase = evaluation_times(range(values.shape[1]), seed)
    rows: list[dict[str, float | str]] = []
    for n_steps, bpd in zip(STEPS, values, strict=True):
        excess = bpd - values[-1]
        rows.append(
            {
                "T": "inf" if n_steps is None else str(n_steps),
                "bpd": bpd.mean().item(),
                "bpd_error": standard_error(bpd, phase),
                "excess": excess.mean().item(),
                "excess_error": standard_error(excess, phase),
            }
        )
    return rows


def gain(before: Float[Tensor, " n"], after: Float[Tensor, " n"], seed: int) -> dict[str, float]:
    """Returns how many bits per dimension fine-tuning saves on common draws, and its standard error."""
    phase = evaluation_times(range(len(before)), seed)
    return {"gain": (before - after).mean().item(), "gain_error": standard_error(before - after, phase)}


def as_text(name: str, rows: list[dict[str, float | str]]) -> str:
    """Returns one model's rows for people."""
    lines = [f"{name}", f"{'T':>8}{'bpd':>20}{'above T = inf':>20}"]
    lines += [
        f"{row['T']:>8}{row['bpd']:>11.4f} ± {row['bpd_error']:.4f}{row['excess']:>11.4f} ± {row['excess_error']:.4f}"
        for row in rows
    ]
    return "\n".join(lines)


def main(names: list[str], images: nelbo.Images, out: Path, seed: int) -> str:
    """Writes ``steps.json`` and returns the tables of the models, the first of which others are compared with."""
    tables = {name: bounds(nelbo.load(name), images, seed) for name in names}
    rows = {name: summary(values, seed) for name, values in tables.items()}
    first, *others = names
    gains = {name: gain(tables[first][0], tables[name][0], seed) for name in others}
    text = [as_text(name, rows[name]) for name in names]
    for name, saved in gains.items():
        text.append(f"T = {STEPS[0]}: {name} saves {saved['gain']:.4f} ± {saved['gain_error']:.4f} bpd on {first}.")
    settings = {"n_images": len(images), "data": Path(images.name).name, "seed": seed}
    with new_file(out / "steps.json") as temporary:
        temporary.write_text(json.dumps({"setting": settings, "models": rows, "gains_at_T_10": gains}, indent=2) + "\n")
    return "\n".join(
        [f"{len(images)} images of {settings['data']}, one pass, standard errors behind the values", *text]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar10-small")
    parser.add_argument("--tuned", nargs="*", default=[], help="folders of fine-tuned models")
    parser.add_argument("--data", type=Path, default=Path("data/cifar10-test.npz"))
    parser.add_argument("--n-images", type=int, default=None, help="the first images alone; default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/steps"))
    arguments = parser.parse_args()
    images = nelbo.open_images(arguments.data)
    if arguments.n_images:
        images = images.select(range(min(arguments.n_images, len(images))))
    print(main([arguments.model, *arguments.tuned], images, arguments.out, arguments.seed))
