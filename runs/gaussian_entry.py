"""What a Gaussian entry gives: the best bound in K network calls with it and with a standard normal one.

    python runs/gaussian_entry.py cifar10-small --test data/cifar10-test.npz --images 128

Predicted from the bundled error table, and measured along the same chains on test images, with the same noise.
"""

import argparse
import json
from pathlib import Path

import torch

import nelbo
from nelbo.diffusion.bound import to_bpd
from nelbo.diffusion.draws import chain_draws
from nelbo.runtime.bundled import bundled_tables
from nelbo.time_schedule.chain import chain_bound
from nelbo.time_schedule.error_table import load_table
from nelbo.time_schedule.schedule import TimeSchedule

BUDGETS = (1, 2, 4, 5, 8, 9, 16, 32, 64)


@torch.no_grad()
def measured(model: nelbo.DiffusionModel, schedule: TimeSchedule, images: torch.Tensor) -> torch.Tensor:
    """Returns the bound of each image in bits per dimension."""
    bounds = []
    for first in range(0, len(images), 32):
        indices = range(first, min(first + 32, len(images)))
        noise = chain_draws(indices, model.image_shape, 0)
        bounds.append(chain_bound(model.given(), schedule, images[first : indices.stop], *noise).total)
    return to_bpd(torch.cat(bounds), model.n_dims)


def main() -> None:
    """Prints a row a budget."""
    options = parse()
    model, table = nelbo.load(options.model), load_table(bundled_tables()[options.model])
    images = nelbo.open_images(options.test).read(range(options.images))
    kinds = {"normal": None, "gaussian": model.image_moments}
    found = {kind: nelbo.optimal_schedules(table, BUDGETS, moments=moments) for kind, moments in kinds.items()}
    rows = []
    for budget in BUDGETS:
        schedules = {kind: each[budget] for kind, each in found.items()}
        bounds = {kind: measured(model, schedule, images) for kind, schedule in schedules.items()}
        gain = bounds["normal"] - bounds["gaussian"]
        row = {
            "calls": budget,
            **{f"{kind}, predicted": schedule.bpd for kind, schedule in schedules.items()},
            **{f"{kind}, measured": bound.mean().item() for kind, bound in bounds.items()},
            "gain": gain.mean().item(),
            "its error": (gain.std() / len(gain) ** 0.5).item(),
            **{f"{kind}, enters at": schedule.gammas[-1].item() for kind, schedule in schedules.items()},
        }
        rows.append(row)
        print(
            "  ".join(f"{key} {value:.4f}" if isinstance(value, float) else f"{value:3}" for key, value in row.items())
        )
    if options.out:
        content = {"model": options.model, "images": options.images, "rows": rows}
        options.out.write_text(json.dumps(content, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """Returns the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
