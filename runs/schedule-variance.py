"""The paper's variance claim, measured: how noisy one estimate of the bound is under four noise schedules.

    python runs/schedule-variance.py --train data/cifar10-train.npz --test data/cifar10-test.npz

The denoiser stays as it is, and all schedules have its ends. The interior of the learned one descends the gradient of
appendix I.2 on training images. Two variances of the estimated bound in bits per dimension are reported:

- per example: of the estimate from one image, one time and one noise, all of them random;
- per batch: of the mean over 128 random images whose times are the paper's low-discrepancy ones, times 128.

Both are worked out from squared errors on a grid of gammas ("table", the diffusion loss alone), and seen in direct
estimates of the whole bound ("direct"), with the same images and noise under every schedule.

Two of the schedules are not made for these ends. "cut" takes the part between them of the schedule in continuous time,
very steep at the clean end; "rescaled" takes the gammas of the 1000 steps as published and maps their ends onto these,
linearly in gamma. "optimum" is the schedule of least variance per example that the table allows, a density of
gamma proportional to the square root of the mean squared error, "optimum, batch" that of least variance per batch.
Their tables come from half of the images and all variances from the other half, so that they cannot profit from noise.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from _figures import panels, save_figure
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

import nelbo
from nelbo.diffusion.bound import bound, squared_error
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.draws import to_device, training_draws
from nelbo.diffusion.noise_schedule import BetaLinear, Cosine, Learned, Linear, NoiseSchedule, Table
from nelbo.diffusion.schedule_variance import optimal_schedule, variance
from nelbo.models.interface import DiffusionModel
from nelbo.runtime.atomic import new_file
from nelbo.runtime.device import autocast, fastest_precision, set_precision
from nelbo.runtime.randomness import generator, normal
from nelbo.train.objective import Objective

BATCH = 128


@dataclass(frozen=True)
class Setting:
    """How much is measured.

    Attributes:
        n_images: Test images of the table of errors.
        n_gammas: Gammas of the table.
        n_direct: Test images of the direct estimates.
        n_steps: Steps of learning the schedule.
        batch_size: Training images a step.
        rate: Learning rate of the interior at the start; it falls to zero along a cosine.
        n_units: Sigmoids of the learned schedule.
    """

    n_images: int = 384
    n_gammas: int = 128
    n_direct: int = 10_000
    n_steps: int = 600
    batch_size: int = 32
    rate: float = 0.03
    n_units: int = 256


def main(
    model: DiffusionModel, train: nelbo.Images, test: nelbo.Images, out: Path, setting: Setting, plot: bool
) -> str:
    """Writes ``variance.json`` and ``variance.png`` and returns the table."""
    if model.gammas is not None:
        raise nelbo.NelboError("the model knows its own noise levels alone, so it has no other noise schedule")
    precision = fastest_precision(model.device)
    set_precision(model, model.device, precision)
    model.requires_grad_(False)
    ends = model.noise_schedule.gamma_0.item(), model.noise_schedule.gamma_1.item()
    with autocast(model.device, precision):
        learned = learn(model, train, setting)
        gammas, errors = error_table(model, test, setting)
        schedules: dict[str, NoiseSchedule] = {
            "learned": learned,
            "log-SNR linear": Linear(*ends),
            "alpha-cosine, cut": Cosine(*ends),
            "beta-linear, cut": BetaLinear(*ends),
            "alpha-cosine, rescaled": rescaled(cosine_alphas(), *ends),
            "beta-linear, rescaled": rescaled(beta_linear_alphas(), *ends),
            "optimum": optimal_schedule(gammas, errors[::2]),
            "optimum, batch": optimal_schedule(gammas, errors[::2], evenly_spread=True),
        }
        direct = {name: direct_estimates(model, test, schedules[name], setting) for name in schedules}
    rows = {name: row(schedules[name], gammas, errors[1::2], direct[name], model.n_dims) for name in schedules}
    learned_gammas = learned.grid(64).tolist()
    with new_file(out / "variance.json") as temporary:
        settings = {**vars(setting), "precision": precision, "test": Path(test.name).name}
        result = {"setting": settings, "schedules": rows, "learned_gammas": learned_gammas}
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    if plot:
        draw(schedules, gammas, errors, model.n_dims, out / "variance.png")
    return as_text(rows, setting)


def beta_linear_alphas() -> Float[Tensor, " n"]:
    """Returns DDPM's 1000 values of alpha squared."""
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def cosine_alphas(offset: float = 0.008) -> Float[Tensor, " n"]:
    """Returns improved DDPM's values of alpha squared, without the last one of 1000, which is 0 but for a clip."""
    angles = (torch.arange(1, 1000, dtype=torch.float64) / 1000 + offset) / (1 + offset) * math.pi / 2
    return (angles.cos() / math.cos(offset / (1 + offset) * math.pi / 2)).square()


def rescaled(alpha_squared: Float[Tensor, " n"], gamma_0: float, gamma_1: float) -> Table:
    """Returns the schedule through some published values whose gammas are mapped linearly onto other ends."""
    gammas = torch.log((1 - alpha_squared) / alpha_squared)
    return Table((gamma_0 + (gamma_1 - gamma_0) * (gammas - gammas[0]) / (gammas[-1] - gammas[0])).tolist())


def learn(model: DiffusionModel, train: nelbo.Images, setting: Setting) -> Learned:
    """Returns a schedule whose interior has descended the squared loss of the model as it is (appendix I.2)."""
    fixed = model.noise_schedule
    learned = Learned(fixed.gamma_0.item(), fixed.gamma_1.item(), setting.n_units, learned_ends=False)
    optimizer = torch.optim.Adam(learned.interior, betas=(0.9, 0.99))
    model.noise_schedule, objective = learned.to(model.device), Objective(model, None)
    for step in tqdm(range(setting.n_steps), desc="learning the schedule", disable=None):
        for group in optimizer.param_groups:
            group["lr"] = setting.rate * 0.5 * (1 + math.cos(math.pi * step / setting.n_steps))
        optimizer.zero_grad()
        indices = generator("schedule images", step).integers(len(train), size=setting.batch_size)
        draws = training_draws(range(setting.batch_size), setting.batch_size, model.image_shape, 0, step)
        objective(train.read(indices).to(model.device), to_device(draws, model.device)).backward()
        optimizer.step()
    model.noise_schedule = fixed
    return learned.requires_grad_(False)


@torch.no_grad()
def error_table(
    model: DiffusionModel, test: nelbo.Images, setting: Setting
) -> tuple[Float[Tensor, " g"], Float[Tensor, "n g"]]:
    """Returns evenly spaced gammas and the squared error of each image at each, every one with its own noise."""
    ends = model.noise_schedule.gamma_0.item(), model.noise_schedule.gamma_1.item()
    gammas = torch.linspace(*ends, setting.n_gammas, dtype=torch.float64)
    chosen = generator("table images").permutation(len(test))[: setting.n_images]
    rows = []
    for index in tqdm(chosen, desc="table of errors", disable=None):
        x = to_unit(test.read([int(index)])).expand(setting.n_gammas, *model.image_shape)
        eps = normal(tuple(x.shape), "table noise", int(index))
        on_device = (tensor.to(model.device) for tensor in (x, eps, gammas))
        rows.append(squared_error(model.given(), *on_device).cpu())
    return gammas, torch.stack(rows)


@torch.no_grad()
def direct_estimates(
    model: DiffusionModel, test: nelbo.Images, schedule: NoiseSchedule, setting: Setting
) -> Float[Tensor, "batches b"]:
    """Returns one estimate of the bound for each of many images, in batches with low-discrepancy times."""
    fixed, model.noise_schedule = model.noise_schedule, schedule.to(model.device)
    order = generator("direct images").permutation(len(test))
    estimates = []
    for step in tqdm(range(min(setting.n_direct, len(test)) // BATCH), desc="direct estimates", disable=None):
        draws = training_draws(range(BATCH), BATCH, model.image_shape, 1, step)
        images = test.read(order[step * BATCH : (step + 1) * BATCH]).to(model.device)
        estimates.append(bound(model.given(), images, to_device(draws, model.device)).bpd.cpu())
    model.noise_schedule = fixed
    return torch.stack(estimates)


def row(
    schedule: NoiseSchedule,
    gammas: Float[Tensor, " g"],
    errors: Float[Tensor, "n g"],
    direct: Float[Tensor, "batches b"],
    n_dims: int,
) -> dict[str, float]:
    """Returns what is reported of one schedule, variances in squared bits per dimension."""
    table = variance(schedule, gammas, errors, n_dims)
    per_example, per_batch = direct.flatten(), direct.mean(1)
    return {
        "table_per_example": table.per_example,
        "table_between_images": table.between_images,
        "table_per_batch_times_128": BATCH * table.per_batch(BATCH),
        "direct_per_example": per_example.var().item(),
        "direct_per_example_error": error_of_variance(per_example),
        "direct_per_batch_times_128": BATCH * per_batch.var().item(),
        "direct_per_batch_times_128_error": BATCH * error_of_variance(per_batch),
        "direct_bpd": direct.mean().item(),
        "direct_bpd_error": (per_batch.var() / len(per_batch)).sqrt().item(),
    }


def error_of_variance(values: Float[Tensor, " n"]) -> float:
    """Returns the standard error of a sample variance, from the fourth moment of the sample."""
    squares = (values - values.mean()).square()
    return (squares.std() / math.sqrt(len(values))).item()


def as_text(rows: dict[str, dict[str, float]], setting: Setting) -> str:
    """Returns the table for people."""
    header = ("schedule", "table, per example", "direct", "table, per batch x 128", "direct", "bpd")
    lines = [
        f"Variance of the bpd estimate: table of {setting.n_images // 2} images x {setting.n_gammas} gammas; direct.",
        "".join(f"{name:>{width}}" for name, width in zip(header, (24, 20, 20, 24, 20, 18), strict=True)),
    ]
    for name, values in rows.items():
        lines.append(
            f"{name:>24}{values['table_per_example']:>20.3f}"
            f"{plus_minus(values, 'direct_per_example'):>20}"
            f"{values['table_per_batch_times_128']:>24.3f}"
            f"{plus_minus(values, 'direct_per_batch_times_128'):>20}"
            f"{plus_minus(values, 'direct_bpd'):>18}"
        )
    between = next(iter(rows.values()))["table_between_images"]
    return "\n".join([*lines, f"Of each, {between:.3f} is variance between images, which no schedule changes."])


def plus_minus(values: dict[str, float], name: str) -> str:
    """Returns a value and its standard error."""
    return f"{values[name]:.3f} ± {values[name + '_error']:.3f}"


def draw(
    schedules: dict[str, NoiseSchedule],
    gammas: Float[Tensor, " g"],
    errors: Float[Tensor, "n g"],
    n_dims: int,
    path: Path,
) -> None:
    """Draws gamma(t), and the mean loss over t with the band that holds the middle 80 % of images."""
    figure, (left, right) = panels(2, 5.0)
    bpd = 0.5 * errors / (n_dims * math.log(2))
    for name, schedule in schedules.items():
        t = schedule.inverse(gammas)
        slopes = schedule.derivative(t)
        mean, low, high = (slopes * loss for loss in (bpd.mean(0), bpd.quantile(0.1, dim=0), bpd.quantile(0.9, dim=0)))
        (line,) = left.plot(t.numpy(), gammas.numpy(), label=name, linestyle=":" if "optimum" in name else "-")
        right.plot(t.numpy(), mean.numpy(), label=name, color=line.get_color(), linestyle=line.get_linestyle())
        right.fill_between(t.numpy(), low.numpy(), high.numpy(), color=line.get_color(), alpha=0.1)
    left.set(xlabel="t", ylabel="gamma", title="noise schedules with equal ends")
    right.set(xlabel="t", ylabel="bits per dimension", yscale="log", ylim=(0.1, None), title="diffusion loss at time t")
    left.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar10-small")
    parser.add_argument("--train", type=Path, default=Path("data/cifar10-train.npz"))
    parser.add_argument("--test", type=Path, default=Path("data/cifar10-test.npz"))
    parser.add_argument("--out", type=Path, default=Path("out/schedule-variance"))
    parser.add_argument("--no-plot", action="store_true")
    for name, value in vars(Setting()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = parser.parse_args()
    setting = Setting(**{name: getattr(arguments, name) for name in vars(Setting())})
    train, test = nelbo.open_images(arguments.train), nelbo.open_images(arguments.test)
    if not arguments.no_plot:
        panels(1)  # Says now, not after an hour, that matplotlib is missing.
    print(main(nelbo.load(arguments.model), train, test, arguments.out, setting, not arguments.no_plot))
