"""Samplers of few network calls side by side: features, colour, spectrum, saturation, precision, recall. NOT FID.

    python runs/sample_quality.py cifar10-small --train cifar10-train.npz --test cifar10-test.npz --out out/quality

Each measure sees what the others miss (`runs/_measures.py`). Features are the pooled last layer (128 numbers) of a
classifier that this script trains on the data's labels; the distance between Gaussians fitted to them compares with
other rows of this table only. What as many real training images score is the first row, the floor.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from _measures import (
    colour_distance,
    features_of,
    frechet_distance,
    precision_and_recall,
    saturation,
    spectrum_distance,
    trained_classifier,
)
from torch import Tensor

import nelbo
from nelbo.data.pictures import save_grid
from nelbo.runtime.atomic import new_file
from nelbo.runtime.bundled import bundled_tables
from nelbo.runtime.device import choose_device
from nelbo.runtime.randomness import permutation
from nelbo.samplers.levels import spread
from nelbo.samplers.table import SOLVERS
from nelbo.time_schedule.error_table import load_table

Draw = Callable[[nelbo.VDM, int, range], Tensor]


def _optimal(model: nelbo.VDM, n_steps: int, seeds: range) -> Tensor:
    table = load_table(bundled_tables()["cifar10-small" if model.image_shape[0] == 3 else "mnist-tiny"])
    return nelbo.sample(model, nelbo.optimal_schedules(table, [n_steps])[n_steps], seeds)


def _plain(sampler: str, top: float, clip: bool) -> Draw:
    """Returns a sampler as it is without a Gaussian entry, from a level down to gamma = -10 by EDM's rule."""

    def draw(model: nelbo.VDM, n_steps: int, seeds: range) -> Tensor:
        moments, model.image_moments = model.image_moments, None
        gammas = spread("edm", n_steps, -10.0, top)
        images = nelbo.sample(model, n_steps, seeds, sampler=sampler, gammas=gammas, clip=clip)
        model.image_moments = moments
        return images

    return draw


def _solver(sampler: str) -> Draw:
    return lambda model, n_steps, seeds: nelbo.sample(model, n_steps, seeds, sampler=sampler)


ROWS: dict[str, Draw] = {
    "even, posterior": _solver("ancestral"),
    "optimal for the bound, spectral": _optimal,
    "dpm-solver++ from gamma 5": _plain("dpm-solver++", 5.0, False),
    "dpm-solver++ from 3.5, clipped": _plain("dpm-solver++", 3.5, True),
    "dpm-solver++ from 2.7, clipped": _plain("dpm-solver++", 2.7, True),
    "ddim from 5": _plain("ddim", 5.0, False),
    **{f"{name}, Gaussian entry": _solver(name) for name in SOLVERS},
}


def main() -> None:
    """Trains the classifier, draws each row's samples, prints and writes the measures."""
    options = parse()
    device = choose_device("auto")
    train, test = nelbo.open_images(options.train), nelbo.open_images(options.test)
    net = trained_classifier(train, options.epochs, device, options.out / "classifier.pt")
    real = test.read(range(options.real))
    assert test.labels is not None
    with torch.no_grad():
        guesses = torch.cat([net(part.to(device)).argmax(1).cpu() for part in real.split(500)])
    accuracy = (guesses == torch.from_numpy(test.labels[: options.real])).double().mean().item()
    print(f"classifier: {accuracy:.1%} of test images right")
    of_real = features_of(net, real, device)
    rows: list[dict[str, object]] = []

    def measure(name: str, n_steps: int | None, images: Tensor) -> None:
        features = features_of(net, images, device)
        precision, recall = precision_and_recall(of_real[: len(images)], features)
        row = {
            "sampler": name,
            "calls": n_steps,
            "features": frechet_distance(of_real, features),
            "colour": colour_distance(real, images),
            "spectrum": spectrum_distance(real, images),
            "saturation": saturation(images),
            "precision": precision,
            "recall": recall,
        }
        rows.append(row)
        numbers = "  ".join(f"{key} {value:6.3f}" for key, value in row.items() if isinstance(value, float))
        print(f"{n_steps or '':>4} {name:<34} {numbers}", flush=True)
        with new_file(options.out / "results.json") as temporary:
            content = {"model": options.model, "samples": options.samples, "real": options.real}
            temporary.write_text(json.dumps({**content, "accuracy": accuracy, "rows": rows}, indent=2) + "\n")

    chosen = permutation(len(train), "real images of the floor", 0)[: options.samples]
    measure("real training images", None, train.read(chosen))
    model = nelbo.load(options.model, device)
    assert isinstance(model, nelbo.VDM)
    for n_steps in (int(part) for part in options.steps.split(",")):
        for name, draw in ROWS.items():
            if name.startswith("heun") and n_steps % 2 == 0:
                continue
            images = draw(model, n_steps, range(options.samples))
            measure(name, n_steps, images)
            save_grid(images[:64], options.out / f"{name.replace(' ', '-').replace(',', '')}-{n_steps}.png")


def parse() -> argparse.Namespace:
    """Returns the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", default="8,16")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--real", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
