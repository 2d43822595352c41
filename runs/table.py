"""Makes the error table that comes with a bundled model, from images it was trained on.

    python runs/table.py cifar10-small --data cifar10-train.npz

128 gammas and 128 images; covariances in half precision, which moves no schedule's bound by 0.0001.
"""

import argparse
from pathlib import Path

import torch

import nelbo
from nelbo.runtime.bundled import bundled_models
from nelbo.runtime.device import choose_device
from nelbo.time_schedule.error_table import load_table, save_table
from nelbo.time_schedule.gather import chosen_images, error_table

N_GAMMAS, N_IMAGES = 128, 128
BUDGETS = (4, 8, 16, 32, 64)


def main(name: str, data: Path) -> None:
    """Writes errors.safetensors beside the model's weights."""
    model, images = nelbo.load(name, choose_device("auto")), nelbo.open_images(data)
    table = error_table(model, chosen_images(images, N_IMAGES), N_GAMMAS)
    path = bundled_models()[name] / "errors.safetensors"
    save_table(table, path, torch.float16)
    whole, stored = (nelbo.optimal_schedules(each, BUDGETS) for each in (table, load_table(path)))
    for budget in BUDGETS:
        print(f"K = {budget:<3} {whole.bpd(budget):.5f} bpd predicted, {stored.bpd(budget):.5f} as stored")
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    main(arguments.model, arguments.data)
