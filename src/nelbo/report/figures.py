"""The figures of a report, as data URIs that stand in its page."""

import base64
import math
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from nelbo.data.pictures import grid
from nelbo.report.measure import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, LINE, OTHER = "#1f2933", "#0b7285", "#d9480f"
N_SHOWN = 6  # easiest and hardest pictures


def figures(found: Findings) -> dict[str, str]:
    """Returns every figure of a report by name."""
    order = found.bits.flatten(1).sum(1).argsort().tolist()
    shown = [order[:N_SHOWN], order[::-1][:N_SHOWN]]
    heat = avg_pool2d(found.bits, 3, 1, 1, count_include_pad=False)  # One noise image a level: pixels alone flicker.
    scale = heat[shown[0] + shown[1]].max().item()
    drawn = {
        "loss": _loss(found),
        "histogram": _histogram(found),
        "few": _few(found),
        "easiest": _pictures(found.pictures[shown[0]], heat[shown[0]] / scale),
        "hardest": _pictures(found.pictures[shown[1]], heat[shown[1]] / scale),
        "samples": _picture(grid(found.samples).permute(1, 2, 0).numpy(), 2),
    }
    return drawn | ({"training": _training(found)} if found.training else {})


def _axes(x: str, y: str) -> "tuple[Figure, Axes]":
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    FigureCanvasSVG(figure)
    axes: Any = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _loss(found: Findings) -> str:
    figure, axes = _axes("noise level γ = −log SNR", "bits per dimension per unit of γ")
    axes.fill_between(found.gammas.numpy(), found.loss.numpy(), color=LINE, alpha=0.15)
    axes.plot(found.gammas.numpy(), found.loss.numpy(), color=LINE)
    axes.set_ylim(bottom=0)
    return _svg(figure)


def _histogram(found: Findings) -> str:
    figure, axes = _axes("diffusion term, bits per dimension", "images")
    each = found.bits.flatten(1).sum(1).numpy() / math.prod(found.pictures.shape[1:])
    axes.hist(each, bins=min(24, max(4, len(each) // 3)), color=LINE, alpha=0.8)
    axes.axvline(each.mean(), color=OTHER, label=f"mean {each.mean():.3f}")
    axes.legend(frameon=False)
    return _svg(figure)


def _few(found: Findings) -> str:
    figure, axes = _axes("network calls", "bits per dimension")
    budgets = [k for k in found.curve if k >= 2]
    axes.plot(budgets, [found.curve[k] for k in budgets], "o-", color=LINE, label="best schedule of K calls, predicted")
    axes.axhline(found.evaluation.bpd, color=OTHER, linestyle="--", label="continuous time, measured here")
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [str(k) for k in budgets])
    axes.legend(frameon=False)
    if found.schedule is not None:
        inset = axes.inset_axes((0.45, 0.42, 0.5, 0.12))
        inset.eventplot([found.schedule.gammas.tolist()], colors=INK, lineoffsets=0, linelengths=1)
        inset.set(yticks=[], ylim=(-0.5, 0.5))
        inset.set_title("levels γ of the schedule of 16 calls", fontsize=8)
        inset.tick_params(labelsize=7)
    return _svg(figure)


def _training(found: Findings) -> str:
    figure, axes = _axes("images seen", "bits per dimension")
    loss = [(line["n_images"], line["loss_bpd"]) for line in found.training if "loss_bpd" in line]
    held = [(line["n_images"], line["test_bpd"], line["test_standard_error"]) for line in found.training
            if "test_bpd" in line]  # fmt: skip
    if loss:
        axes.plot(*zip(*loss, strict=True), color=LINE, alpha=0.7, label="training loss")
        values = sorted(value for _, value in loss)
        axes.set_ylim(top=values[int(0.9 * (len(values) - 1))] * 1.15 + 0.05)
    if held:
        n_images, bpd, error = zip(*held, strict=True)
        axes.errorbar(n_images, bpd, error, fmt="o-", color=OTHER, label="held-out bound ± standard error")
    axes.legend(frameon=False)
    return _svg(figure)


def _pictures(pictures: UInt8[Tensor, "n c h w"], heat: Float[Tensor, "n h w"]) -> str:
    """Returns pictures above the heat maps of their bits, which go from 0 to 1."""
    from matplotlib import colormaps

    colours = (255 * colormaps["inferno"](heat.numpy())[..., :3]).astype(np.uint8)
    rows = [np.concatenate(list(row), axis=1) for row in (pictures.expand(-1, 3, -1, -1).permute(0, 2, 3, 1), colours)]
    return _picture(np.concatenate(rows, axis=0), 3)


def _picture(pixels: np.ndarray, scale: int) -> str:
    """Returns pixels as an image that is some times as large, with sharp pixels."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels))
    stream = BytesIO()
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _svg(figure: "Figure") -> str:
    stream = BytesIO()
    figure.savefig(stream, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()
