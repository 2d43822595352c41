"""Makes what the codec needs of a bundled model: its frozen form, with the plans of a few budgets.

    python runs/frozen.py cifar10-small --data cifar10-train.npz

Decoders everywhere use this very file, so it comes with the package. Run it after runs/table.py.
"""

import argparse
from pathlib import Path

import nelbo
from nelbo.codec.make_plan import embedded_plan
from nelbo.codec.plan_store import budgets_of, with_plans
from nelbo.integer.freeze import choose_images, freeze
from nelbo.integer.frozen_files import FROZEN
from nelbo.integer.frozen_model import FrozenModel
from nelbo.runtime.bundled import bundled_models, bundled_tables
from nelbo.time_schedule.error_table import load_table

BUDGETS = (4, 8, 16, 32, 64)
N_IMAGES = 64


def main(name: str, data: Path | None) -> None:
    """Writes frozen.safetensors beside the model's weights."""
    model = nelbo.load(name)
    images = choose_images(model, None if data is None else str(data), N_IMAGES)
    frozen = freeze(model, images, "samples of the model" if data is None else data.name)
    schedules = nelbo.optimal_schedules(load_table(bundled_tables()[name]), BUDGETS)
    plans = {budget: embedded_plan(model, schedules[budget]) for budget in BUDGETS}
    path = bundled_models()[name] / FROZEN
    with_plans(frozen, plans).save(path)
    found = FrozenModel.load(path)
    cost = frozen.header.cost
    assert cost is not None, "freezing measures it"
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {cost.bpd:.5f} bpd, plans of {budgets_of(found)} steps")
    print(f"SHA-256 {found.fingerprint}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    main(arguments.model, arguments.data)
