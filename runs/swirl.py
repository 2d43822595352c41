"""The official code's two-dimensional example: a swirl, a small network, and a noise schedule learned beside it.

    python runs/swirl.py --out out/swirl

As there, points are rounded to 256 values in each of two dimensions, so that they are "images" of two pixels, and the
decoder, the bound in bits per dimension and the sampler are those of images. The figure shows the learned schedule
against the line it began as, the data with samples, and the density that the model's bound stands for. Under 3 minutes
on one core.
"""

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import torch
from _figures import panels, save_figure
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import silu

from nelbo.diffusion.bound import Draws, bound
from nelbo.diffusion.decoder import DECODERS, to_values
from nelbo.diffusion.draws import evaluation_times
from nelbo.diffusion.noise_schedule import Learned, Linear, NoiseSchedule
from nelbo.diffusion.reverse import FIXED_KERNELS
from nelbo.models.interface import DiffusionModel
from nelbo.nets.fourier import fourier_features, sinusoidal_embedding
from nelbo.runtime.atomic import new_file
from nelbo.runtime.randomness import generator, normal, uniform
from nelbo.sampling import sample
from nelbo.train.objective import Objective

N_POINTS, BATCH, N_SAMPLES, SAMPLE_STEPS = 1024, 512, 1024, 100
ENDS = (-13.3, 5.0)


class SwirlModel(DiffusionModel):
    """A model of points: three dense layers that see the point, its Fourier features, and gamma.

    Args:
        n_hidden: Width of the layers.
        n_units: Sigmoids of the learned noise schedule.
    """

    image_shape = (2, 1, 1)

    def __init__(self, n_hidden: int = 128, n_units: int = 128) -> None:
        super().__init__()
        self.noise_schedule: NoiseSchedule = Learned(*ENDS, n_units)
        self.decoder, self.reverse = DECODERS["softmax"], FIXED_KERNELS["posterior"]
        self.fourier, n_embedding = tuple(range(8)), 32
        self.first = nn.Linear(2 * (1 + 2 * len(self.fourier)) + n_embedding, n_hidden)
        self.second, self.last = nn.Linear(n_hidden, n_hidden), nn.Linear(n_hidden, 2)
        self.n_embedding = n_embedding

    def denoise(
        self, z: Float[Tensor, "b c h w"], gamma: Float[Tensor, " b"], labels: Tensor | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Returns eps_hat."""
        level = (gamma - ENDS[0]) / (ENDS[1] - ENDS[0])
        features = [fourier_features(z, self.fourier).flatten(1), sinusoidal_embedding(0.01 * level, self.n_embedding)]
        hidden = silu(self.second(silu(self.first(torch.cat(features, dim=1)))))
        return z + self.last(hidden).reshape(z.shape)


def swirl(n: int) -> UInt8[Tensor, "n 2 1 1"]:
    """Returns points of a spiral of one and a half turns, with a little noise, as pairs of pixel values."""
    rng = generator("swirl")
    angle = math.pi * (1 + 3 * torch.from_numpy(rng.random(n)).sqrt())
    noise = 0.02 * torch.from_numpy(rng.standard_normal((n, 2)))
    points = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1) / (4.6 * math.pi) + noise
    return to_values(points.float())[:, :, None, None]


def draw_noise(n: int, purpose: str, key: int) -> Draws:
    """Returns draws with low-discrepancy times; one generator for all points, of which there are many."""
    eps_0, eps_t = normal((2, n, *SwirlModel.image_shape), purpose, key)
    return Draws(eps_0, (uniform(f"{purpose} time", key) + torch.arange(n, dtype=torch.float64) / n) % 1, eps_t)


def train(model: SwirlModel, points: UInt8[Tensor, "n 2 1 1"], n_updates: int) -> list[float]:
    """Trains network and schedule; returns each step's loss in bits per dimension."""
    objective, losses = Objective(model, None), []
    interior = model.noise_schedule.interior
    rest = [p for p in model.parameters() if all(p is not q for q in interior)]
    optimizer = torch.optim.Adam([{"params": rest}, {"params": interior}], betas=(0.9, 0.99))
    for step in range(n_updates):
        for group, rate in zip(optimizer.param_groups, (3e-3, 1e-2), strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / n_updates))
        indices = torch.from_numpy(generator("swirl batch", step).integers(len(points), size=BATCH))
        loss = objective(points[indices], draw_noise(BATCH, "swirl training", step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def log_density(model: SwirlModel, n_side: int, n_passes: int) -> Float[Tensor, "n n"]:
    """Returns the negative bound of every ``256 / n_side``-th pair of values in nats, row by row."""
    values = (torch.arange(n_side) * 256 // n_side).to(torch.uint8)
    pairs = torch.cartesian_prod(values, values)[:, :, None, None].flip(1)
    total = torch.zeros(len(pairs), dtype=torch.float64)
    for which in range(n_passes):
        draws = draw_noise(len(pairs), "swirl density", which)
        spread = replace(draws, u=evaluation_times(range(len(pairs)), 0, n_passes, which))
        total -= bound(model.given(), pairs, spread).total / n_passes
    return total.reshape(n_side, n_side)


@torch.no_grad()
def estimates(
    model: SwirlModel, points: UInt8[Tensor, "n 2 1 1"], schedule: NoiseSchedule, n_passes: int = 32
) -> Float[Tensor, "p n"]:
    """Returns estimates of the bound of each point in bits per dimension under a schedule with the same ends."""
    learned, model.noise_schedule = model.noise_schedule, schedule
    bpd = [bound(model.given(), points, draw_noise(len(points), "swirl estimate", k)).bpd for k in range(n_passes)]
    model.noise_schedule = learned
    return torch.stack(bpd)


def draw(
    model: SwirlModel,
    points: UInt8[Tensor, "n 2 1 1"],
    samples: UInt8[Tensor, "m 2 1 1"],
    density: Float[Tensor, "n n"],
    path: Path,
) -> None:
    """Draws the schedule, data and samples, and the density."""
    figure, (left, middle, right) = panels(3)
    t = torch.linspace(0, 1, 200, dtype=torch.float64)
    line = Linear(model.noise_schedule.gamma_0.item(), model.noise_schedule.gamma_1.item())
    left.plot(t.numpy(), model.noise_schedule(t).detach().numpy(), label="learned")
    left.plot(t.numpy(), line(t).detach().numpy(), label="line", linestyle=":")
    left.set(xlabel="t", ylabel="gamma", title="noise schedule")
    left.legend()
    for name, values in (("data", points), ("samples", samples)):
        middle.scatter(values[:, 0, 0, 0].numpy(), values[:, 1, 0, 0].numpy(), s=3, alpha=0.6, label=name)
    middle.set(xlim=(0, 255), ylim=(0, 255), aspect="equal", title="data and samples")
    middle.legend()
    right.imshow(density.numpy(), origin="lower", extent=(0, 255, 0, 255), vmin=float(density.max()) - 12)
    right.set(title="minus the bound of each point, nats")
    save_figure(figure, path)


def main(out: Path, n_updates: int, n_side: int = 128, plot: bool = True) -> dict[str, float]:
    """Trains, measures, samples and draws; returns the bound on the points and the variance of one estimate of it."""
    started = time.perf_counter()
    torch.manual_seed(0)
    points, model = swirl(N_POINTS), SwirlModel()
    losses = train(model, points, n_updates)
    model.eval()
    schedule = model.noise_schedule
    ends = schedule.gamma_0.item(), schedule.gamma_1.item()
    learned, line = (estimates(model, points, kind) for kind in (schedule, Linear(*ends)))
    found = {
        "bpd": learned.mean().item(),
        "bpd_error": (learned.mean(1).var() / len(learned)).sqrt().item(),
        "variance_learned": learned.var().item(),
        "variance_line": line.var().item(),
    }
    samples = sample(model, SAMPLE_STEPS, range(N_SAMPLES), precision="float32")
    if plot:
        draw(model, points, samples, log_density(model, n_side, 8), out / "swirl.png")
    with new_file(out / "swirl.json") as temporary:
        run = {"n_updates": n_updates, "ends": ends, "seconds": round(time.perf_counter() - started, 1)}
        temporary.write_text(json.dumps({**found, **run, "loss_bpd_every_100": losses[::100]}, indent=2) + "\n")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/swirl"))
    parser.add_argument("--n-updates", type=int, default=4000)
    parser.add_argument("--no-plot", action="store_true")
    arguments = parser.parse_args()
    if not arguments.no_plot:
        panels(1)  # Says at once that matplotlib is missing.
    for name, value in main(arguments.out, arguments.n_updates, plot=not arguments.no_plot).items():
        print(f"{name:<20}{value:.4f}")
