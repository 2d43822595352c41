"""Ablation: Fourier features on and off, with a fixed and with a learned noise schedule; a short run each.

    python runs/fourier.py --data data/cifar10-train.npz --out out/fourier

Four runs of the same small network on the same images, batches and noise. The curves are the bound of the averaged
weights on images held out from training, in continuous time. Short runs tell what is learned sooner, not what is
learned in the end.
"""

import argparse
import json
from pathlib import Path

from _figures import panels, save_figure
from tqdm import tqdm

import nelbo
from nelbo.evaluation import evaluate
from nelbo.runtime.atomic import new_file
from nelbo.runtime.device import choose_device
from nelbo.runtime.processes import World
from nelbo.train.config import TrainConfig, override
from nelbo.train.inputs import check_images, hold_out
from nelbo.train.loop import Trainer
from nelbo.train.presets import preset

FOURIER = {"with Fourier features": "[7,8]", "without": "[]"}
SCHEDULES = {"fixed line": '{"type": "linear"}', "learned": '{"type": "learned"}'}
STAGES = '"channels": [24, 48], "n_blocks_down": [1, 1], "n_blocks_up": [1, 1], "heads": [0, 0], "n_cond": 64'
COMMON = (
    *("warmup_images=1600", "ema_rate=0.99", "interior_rate=20", "batch_size=32", "decay=cosine"),
    *("optimizer=adamw", "learning_rate=1e-3", "weight_decay=0.01", "model.prediction=v"),
)


def configurations(n_images: int, n_held_out: int) -> dict[str, TrainConfig]:
    """Returns the four runs by name."""
    length = (f"n_images={n_images}", f"n_held_out={n_held_out}")
    return {
        f"{features}, {schedule}": override(
            preset("cifar10-small"),
            [
                *COMMON,
                *length,
                f'model.net={{"type": "unet_multiscale", {STAGES}, "fourier": {exponents}}}',
                f"model.noise_schedule={settings}",
            ],
        )
        for features, exponents in FOURIER.items()
        for schedule, settings in SCHEDULES.items()
    }


def curve(config: TrainConfig, data: nelbo.Images, n_points: int, name: str) -> list[dict[str, float]]:
    """Trains one run and returns its bound on held-out images as it goes, ``n_points`` times."""
    check_images(config, data)
    to_train, held_out = hold_out(data, config.n_held_out)
    if held_out is None:
        raise nelbo.NelboError("the curves are of images held out from training: --n-held-out must be at least 1")
    trainer = Trainer(config, to_train, World(0, 1, choose_device("auto", 0)))
    points = []
    for step in tqdm(range(1, config.n_updates + 1), desc=name, disable=None):
        trainer.run_step()
        if step * n_points // config.n_updates > (step - 1) * n_points // config.n_updates:
            result = evaluate(trainer.average.model, held_out, precision=trainer.precision)
            n_seen = step * config.batch_size
            points.append({"n_images": n_seen, "bpd": result.bpd, "bpd_error": result.standard_error})
    return points


def main(data: nelbo.Images, out: Path, n_images: int, n_held_out: int, n_points: int, plot: bool) -> str:
    """Writes ``fourier.json`` and ``fourier.png`` and returns the last point of each curve."""
    curves = {name: curve(c, data, n_points, name) for name, c in configurations(n_images, n_held_out).items()}
    settings = {"data": Path(data.name).name, "n_images": n_images, "n_held_out": n_held_out}
    with new_file(out / "fourier.json") as temporary:
        temporary.write_text(json.dumps({"setting": settings, "curves": curves}, indent=2) + "\n")
    if plot:
        draw(curves, out / "fourier.png")
    ends = [(name, points[-1]) for name, points in curves.items()]
    return "\n".join(f"{name:<36}{last['bpd']:.3f} ± {last['bpd_error']:.3f} bpd" for name, last in ends)


def draw(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draws the curves."""
    figure, (axes,) = panels(1, 5.0)
    for name, points in curves.items():
        color, line = "C0" if name.startswith("with ") else "C1", "-" if "learned" in name else ":"
        seen, bpd = ([point[key] for point in points] for key in ("n_images", "bpd"))
        axes.plot(seen, bpd, label=name, color=color, linestyle=line)
    axes.set(xlabel="training images", ylabel="held-out bpd", title="Fourier features, ablated")
    axes.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/cifar10-train.npz"))
    parser.add_argument("--out", type=Path, default=Path("out/fourier"))
    parser.add_argument("--n-images", type=int, default=32_000, help="training images of each run")
    parser.add_argument("--n-held-out", type=int, default=1_000)
    parser.add_argument("--n-points", type=int, default=10, help="points of each curve")
    parser.add_argument("--no-plot", action="store_true")
    a = parser.parse_args()
    if not a.no_plot:
        panels(1)  # Says at once that matplotlib is missing.
    print(main(nelbo.open_images(a.data), a.out, a.n_images, a.n_held_out, a.n_points, not a.no_plot))
