"""Draws the pictures of README.md, from numbers that it measures on the bundled model and images, or measured before.

    python runs/figures.py --out docs/figures

Measures what ``overview.json`` in that folder does not hold, which takes about 3 minutes on an idle core, and draws
``overview.png`` (samples, bound against network calls, bytes) and ``bits.png`` (where the bits of pictures go).
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from _figures import save_figure
from codec import classical, file_of
from torch.nn.functional import avg_pool2d

import nelbo
from nelbo.codec.codec import Codec
from nelbo.codec.plan_store import named_plan
from nelbo.data.pictures import grid
from nelbo.diffusion.bound import prior_kl_of, to_bpd
from nelbo.integer.frozen_files import FROZEN
from nelbo.integer.frozen_model import FrozenModel
from nelbo.report.measure import pixel_bits
from nelbo.runtime.atomic import new_file
from nelbo.runtime.bundled import bundled_models, bundled_tables
from nelbo.time_schedule.error_table import load_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODEL, IMAGES = "cifar10-small", "cifar10-test-256"
KERNELS = {"posterior": "VDM's kernel", "analytic": "analytic", "spectral": "spectral"}
BUDGETS = (2, 4, 8, 16, 32, 64)
CODEC_BUDGETS, N_CHAIN = (4, 16), 256
NAMES = {"png": "PNG", "webp": "WebP", "jpeg_xl": "JPEG XL", "jpeg_xl_mosaic": "JPEG XL, one mosaic"}
N_SAMPLES, SAMPLE_STEPS = 16, 250
CHOSEN = (2, 3, 13, 20, 25, 33, 41, 80)  # Pictures whose bits are shown.
INK, OURS, THEIRS, BOUND = "#1f2933", "#0b7285", "#adb5bd", "#d9480f"


def main(out: Path) -> None:
    """Measures and draws."""
    path = out / "overview.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for name, measure in {"curves": curves, "bytes": sizes}.items():
        if name not in found:
            found[name] = measure()
            with new_file(path) as temporary:
                temporary.write_text(json.dumps({"model": MODEL, "images": IMAGES, **found}, indent=1) + "\n")
    save_figure(overview(found), out / "overview.png")
    save_figure(bits(), out / "bits.png")


def curves() -> dict[str, Any]:
    """Returns the bound in few steps by kernel, predicted from the bundled error table, and the limit that it tells."""
    table = load_table(bundled_tables()[MODEL])
    found = {name: nelbo.optimal_schedules(table, BUDGETS, name) for name in KERNELS}
    diffusion = 0.5 * torch.trapezoid(table.error[:, 0] / table.n_images, table.gammas)
    reconstruction = table.decoder[0, 0] / table.n_decoded
    prior = prior_kl_of(table.square[0] / table.n_decoded, table.n_dims, table.gammas[-1])
    limit = to_bpd(diffusion + reconstruction + prior, table.n_dims).item()
    by_kernel = {name: [each.bpd(k) for k in BUDGETS] for name, each in found.items()}
    return {"budgets": BUDGETS, **by_kernel, "continuous": limit, "n_images": int(table.n_images.min())}


def sizes() -> dict[str, Any]:
    """Returns bits per dimension of files; every archive is decoded and compared."""
    images = nelbo.open_images(IMAGES)
    frozen = FrozenModel.load(bundled_models()[MODEL] / FROZEN)
    rows = {NAMES[name]: size for name, size in classical(images, len(images)).items()}
    for budget in CODEC_BUDGETS:
        coder = Codec(None, named_plan(frozen, budget), frozen, MODEL, N_CHAIN, verify=False)
        rows[f"nelbo, {budget} calls"] = file_of(coder, images, len(images))["file"]
    return {"n_images": len(images), **rows}


def overview(found: dict[str, Any]) -> Any:  # noqa: ANN401
    """Returns the three acts as a figure: a model, its schedules, its archives."""
    figure, (left, middle, right) = three()
    pictures = grid(nelbo.sample(nelbo.load(MODEL), SAMPLE_STEPS, range(N_SAMPLES)))
    left.imshow(pictures.permute(1, 2, 0).numpy(), interpolation="nearest")
    left.set(xticks=[], yticks=[], xlabel=f"samples, {SAMPLE_STEPS} steps")
    left.set_title("1. train a model", color=INK)
    few = found["curves"]
    for name, label in KERNELS.items():
        colour = OURS if name == "spectral" else THEIRS
        style = "o-" if name != "analytic" else "s--"
        middle.plot(few["budgets"], few[name], style, color=colour, label=label, markersize=4)
    middle.axhline(few["continuous"], color=BOUND, linestyle=":", label="continuous time")
    middle.set_xscale("log", base=2)
    middle.set_xticks(few["budgets"], [str(k) for k in few["budgets"]])
    middle.set(xlabel="network calls", ylabel="bits per dimension")
    middle.set_title("2. choose its best few steps", color=INK)
    middle.legend(frameon=False, fontsize=8)
    rows = {name: bits for name, bits in found["bytes"].items() if name != "n_images"}
    colours = [OURS if name.startswith("nelbo") else THEIRS for name in rows]
    bars = right.barh(list(rows), list(rows.values()), color=colours)
    right.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    right.invert_yaxis()
    right.set(xlabel=f"bits per dimension, {found['bytes']['n_images']} CIFAR-10 images, all bytes", xlim=(0, 7))
    right.set_title("3. compress, losslessly", color=INK)
    return figure


def three() -> "tuple[Any, list[Axes]]":
    """Returns a figure of three panels on white, which reads on light and dark pages."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, 3, width_ratios=(0.8, 1, 1.1)))
    for each in axes[1:]:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def bits() -> Any:  # noqa: ANN401
    """Returns pictures above the heat maps of their bits, as a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = nelbo.open_images(IMAGES).select(CHOSEN)
    heat = avg_pool2d(pixel_bits(nelbo.load(MODEL), chosen, 64), 3, 1, 1, count_include_pad=False)
    figure = Figure(figsize=(1.2 * len(CHOSEN), 2.7), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(2, len(CHOSEN))
    shown: Any = None
    for i, picture in enumerate(chosen.read(range(len(CHOSEN)))):
        total = heat[i].sum().item() / picture.numel()
        axes[0, i].imshow(picture.permute(1, 2, 0).numpy())
        axes[0, i].set_title(f"{total:.2f} bpd", fontsize=8, color=INK)
        shown = axes[1, i].imshow(heat[i].numpy(), cmap="inferno", vmin=0, vmax=torch.max(heat).item())
    for each in axes.flat:
        each.set(xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes[1].tolist(), label="bits a pixel", shrink=0.9)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    main(parser.parse_args().out)
