"""The main job: evaluates the bundled model, finds its schedules, samples, trains from scratch, compresses, reports.

    python runs/demo.py --out out/demo

Takes about 2 minutes on 2 idle cores.
"""

import argparse
import shutil
import time
from functools import partial
from pathlib import Path

from codec import classical, file_of

import nelbo
from nelbo.codec.codec import Codec
from nelbo.codec.plan_store import named_plan
from nelbo.data.pictures import save_grid
from nelbo.evaluation import Evaluation, evaluate, table
from nelbo.integer.frozen_files import FROZEN
from nelbo.integer.frozen_model import FrozenModel
from nelbo.report.figures import figures
from nelbo.report.measure import measure
from nelbo.report.page import save_page
from nelbo.runtime.bundled import bundled_models, bundled_tables
from nelbo.sampling import sample
from nelbo.time_schedule.error_table import load_table
from nelbo.train.config import TrainConfig, override
from nelbo.train.inputs import hold_out
from nelbo.train.loop import Intervals
from nelbo.train.presets import preset
from nelbo.train.run import Run

MODEL, IMAGES = "cifar10-small", "cifar10-test-256"
STEPS = (10, 100, 1000, None)
BUDGETS = (8, 16, 32)
CODEC_BUDGET, N_CHAIN = 8, 128
RESULTS = {
    "bounds": "bound-*.json",
    "schedules": "schedule-*.safetensors",
    "samples": "samples.png",
    "the run from scratch": "training",
    "its model": "training/model",
    "a report on the model": "report.html",
}
N_PASSES, N_SAMPLES, SAMPLE_STEPS = 4, 16, 16


def main(out: Path) -> None:
    """Runs the six parts and says where everything is."""
    started = time.perf_counter()
    model, images = nelbo.load(MODEL), nelbo.open_images(IMAGES)
    print(f"The bound of {MODEL} on {len(images)} CIFAR-10 test images, bits per dimension ± standard error:\n")
    evaluations = [evaluate(model, images, n_steps, n_passes=N_PASSES) for n_steps in STEPS]
    print(table(evaluations), flush=True)
    save(evaluations, out)

    print("\nThe best schedules of K network calls, from the error table that comes with the model:\n", flush=True)
    schedules = nelbo.optimal_schedules(load_table(bundled_tables()[MODEL]), BUDGETS)
    for budget in BUDGETS:
        schedule = schedules[budget]
        schedule.save(out / f"schedule-{budget}.safetensors")
        measured = evaluate(model, images, schedule)
        print(
            f"  K = {budget:<3} predicted {schedule.bpd:.4f} ± {schedule.prediction_error:.4f} on its training images, "
            f"measured {measured.bpd:.4f} ± {measured.standard_error:.4f} on these",
            flush=True,
        )

    print(f"\nSampling {N_SAMPLES} images in {SAMPLE_STEPS} network calls each ...", flush=True)
    save_grid(sample(model, SAMPLE_STEPS, range(N_SAMPLES)), out / "samples.png")

    config = demo_config()
    print(f"\nTraining {config.n_updates} steps from scratch on the same images ...\n", flush=True)
    log = train(config, images, out / "training")
    print(log)

    print(
        f"\nCompressing the {len(images)} images in chains of {N_CHAIN}, {CODEC_BUDGET} network calls each ...\n",
        flush=True,
    )
    compress(images)

    print(f"\nA report on {MODEL} ...\n", flush=True)
    report(model, images, out / "report.html")

    print(f"\nDone in {time.perf_counter() - started:.0f} s.")
    for what, place in RESULTS.items():
        print(f"  {what:<22} {out / place}")


def demo_config() -> TrainConfig:
    """Returns the bundled model's run, cut down to 100 small steps."""
    settings = ("n_images=3200", "batch_size=32", "n_held_out=32", "warmup_images=320", "ema_rate=0.9")
    return override(preset(MODEL), settings)


def train(config: TrainConfig, images: nelbo.Images, folder: Path) -> str:
    """Trains into a fresh run folder and returns its loss as it went, and its bound on the images held out."""
    shutil.rmtree(folder, ignore_errors=True)
    to_train, held_out = hold_out(images, config.n_held_out)
    run = Run(config, to_train, held_out, folder, Intervals(log=10, checkpoint=100, evaluate=100))
    run.go()
    return (folder / "metrics.jsonl").read_text().rstrip()


def compress(images: nelbo.Images) -> None:
    """Prints what the images take as files, ours beside others'; what does not come back bit for bit is an error."""
    frozen = FrozenModel.load(bundled_models()[MODEL] / FROZEN)
    coder = Codec(None, named_plan(frozen, CODEC_BUDGET), frozen, MODEL, N_CHAIN, verify=False)
    rows = classical(images, len(images))
    ours = file_of(coder, images, len(images))
    for name, bits in (rows | {f"nelbo, {CODEC_BUDGET} calls": ours["file"]}).items():
        print(f"  {name:<18} {bits:7.4f} bits per dimension, all bytes")
    print(f"  every pixel came back; {ours['compress_seconds']:.0f} s there, {ours['decompress_seconds']:.0f} s back")


def report(model: nelbo.DiffusionModel, images: nelbo.Images, path: Path) -> None:
    """Writes the report of the bundled model."""
    say = partial(print, "  measuring", flush=True)
    found = measure(model, MODEL, images, load_table(bundled_tables()[MODEL]), say=say)
    save_page(found, figures(found), path)


def save(evaluations: list[Evaluation], out: Path) -> None:
    """Writes one JSON file for each evaluation."""
    for evaluation in evaluations:
        evaluation.save(out / f"bound-{evaluation.n_steps or 'inf'}.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    main(parser.parse_args().out)
