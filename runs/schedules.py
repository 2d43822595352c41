"""Schedules of a model from training images, and their bounds measured on test images, for every kernel.

    python runs/schedules.py cifar10-small --train cifar10-train.npz --test cifar10-test.npz --out out/schedules

Or ``--table errors.safetensors`` in place of training images, a table made before, wherever and in whatever precision.
Prints a line for each kernel, way of leaving and budget: what the error table predicts and what test images cost,
beside the continuous bound on the same images; writes results.json and the figure of `nelbo schedule`.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

import nelbo
from nelbo.cli.gathering import gather, loaded_table
from nelbo.evaluation import evaluate
from nelbo.runtime.atomic import new_file
from nelbo.runtime.device import choose_device
from nelbo.runtime.processes import World
from nelbo.time_schedule.error_table import ErrorTable
from nelbo.time_schedule.gather import chosen_images
from nelbo.time_schedule.optimise import optimal_schedules
from nelbo.time_schedule.report import report, supported_kernels

BUDGETS = (1, 2, 4, 8, 16, 32, 64)
FREEDOMS = {
    "fixed ends": {"free_entry": False, "free_exit": False},
    "free, channels": {"exits": ("decoder", "channels")},
    "free, causal": {},
}


def main() -> None:
    """Gathers the table, searches, measures."""
    options = parse()
    model = nelbo.load(options.model, choose_device("auto"))
    options.out.mkdir(parents=True, exist_ok=True)
    table = table_of(model, options)
    test = nelbo.open_images(options.test)
    test = chosen_images(test, options.test_images)
    whole = evaluate(model, test, n_passes=options.passes)
    print(f"{'continuous' if model.gammas is None else 'all levels'}: {whole.bpd:.4f} ± {whole.standard_error:.4f}")
    rows = [row for kernel in supported_kernels(table) for row in measure(model, table, test, kernel, options.budgets)]
    found = optimal_schedules(table, options.budgets)
    picture = report(table, found, supported_kernels(table), options.budgets)
    print(picture.text())
    picture.save_figure(options.out / "schedules.png")
    with new_file(options.out / "results.json") as temporary:
        content = {"model": options.model, "n_test_images": len(test), "whole": asdict(whole), "rows": rows}
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def table_of(model: nelbo.DiffusionModel, options: argparse.Namespace) -> ErrorTable:
    """Returns the given table, or one gathered from training images."""
    if options.table is not None:
        return loaded_table(model, options.table, options.model)
    path = options.out / "errors.safetensors"
    alone = World(0, 1, model.device)
    return gather(model, options.train, path, options.gammas, options.images, 0, 32, "auto", alone)


def measure(
    model: nelbo.DiffusionModel, table: ErrorTable, test: nelbo.Images, kernel: str, budgets: list[int]
) -> list[dict[str, object]]:
    """Returns predicted and measured bounds of one kernel's optima, under each freedom; differences are paired."""
    rows: list[dict[str, object]] = []
    for name, freedom in FREEDOMS.items():
        schedules = optimal_schedules(table, budgets, kernel, **freedom)
        for budget in tqdm(budgets, desc=f"{kernel}, {name}", disable=None, leave=False):
            if not np.isfinite(schedules.bpd(budget)):
                continue
            measured = evaluate(model, test, schedules[budget])
            rows.append(
                {
                    "reverse": kernel,
                    "ends": name,
                    "n_steps": budget,
                    "predicted": schedules.bpd(budget),
                    "bpd": measured.bpd,
                    "standard_error": measured.standard_error,
                }
            )
            print(
                f"{kernel:<13} {name:<15} K = {budget:<3} predicted {schedules.bpd(budget):7.4f}  "
                f"measured {measured.bpd:7.4f} ± {measured.standard_error:.4f}",
                flush=True,
            )
    return rows


def parse() -> argparse.Namespace:
    """Returns the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--train", type=Path, help="the images to gather a table from")
    source.add_argument("--table", type=Path, help="a table made before")
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gammas", type=int, default=1000)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--test-images", type=int, default=256)
    parser.add_argument("--passes", type=int, default=32, help="passes of the whole bound over the same test images")
    parser.add_argument("--budgets", type=lambda text: [int(part) for part in text.split(",")], default=list(BUDGETS))
    return parser.parse_args()


if __name__ == "__main__":
    main()
