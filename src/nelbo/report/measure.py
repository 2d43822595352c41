r"""What a report measures of a model on images: its bound, the bits of pixels and noise levels, bounds in few steps.

The diffusion term in continuous time is an integral over gamma whose integrand is a sum over dimensions (eq. 17),

.. math:: \mathcal L_\infty(x) = \tfrac12 \int_{\gamma_0}^{\gamma_1}
          \mathbb E\,\|\epsilon - \hat\epsilon(z_\gamma; \gamma)\|^2 \, d\gamma,

so that each pixel and each noise level has its share of the bits.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nelbo.data.images import Images
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.gaussian import diffuse
from nelbo.evaluation import Evaluation, evaluate
from nelbo.models.interface import DiffusionModel
from nelbo.models.labels import labels_of
from nelbo.models.provenance import provenance
from nelbo.runtime.randomness import normals
from nelbo.sampling import sample
from nelbo.time_schedule.error_table import ErrorTable
from nelbo.time_schedule.gather import chosen_images, error_table
from nelbo.time_schedule.optimise import optimal_schedules
from nelbo.time_schedule.schedule import TimeSchedule

N_LEVELS, N_PICTURES, N_SAMPLES, SAMPLE_STEPS = 48, 64, 16, 100
TABLE_LEVELS, TABLE_IMAGES = 96, 32
BUDGETS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
SHOWN = 16  # network calls of the schedule whose levels are drawn
BATCH = 32


@dataclass(frozen=True)
class Findings:
    """All that a report shows.

    Attributes:
        evaluation: The bound and its terms.
        pictures: Some of the images.
        bits: The diffusion term of each of their pixels in bits, summed over colours.
        gammas: Noise levels.
        loss: The diffusion term's integrand at each level: bits per dimension for each unit of gamma.
        curve: The predicted bound of the best schedule of each budget, bits per dimension.
        schedule: The best one of 16 calls; None where there is none.
        samples: Images drawn from the model.
        training: The lines of a run's ``metrics.jsonl``; none for a model alone.
        provenance: Where all of it comes from.
    """

    evaluation: Evaluation
    pictures: UInt8[Tensor, "n c h w"]
    bits: Float[Tensor, "n h w"]
    gammas: Float[Tensor, " l"]
    loss: Float[Tensor, " l"]
    curve: dict[int, float]
    schedule: TimeSchedule | None
    samples: UInt8[Tensor, "m c h w"]
    training: list[dict[str, Any]]
    provenance: dict[str, Any]


def measure(
    model: DiffusionModel,
    name: str,
    data: Images,
    table: ErrorTable | None = None,
    metrics: Path | None = None,
    seed: int = 0,
    say: Callable[[str], object] = lambda text: None,
) -> Findings:
    """Measures a model for its report.

    Args:
        model: The model.
        name: What it is called.
        data: The images to judge it on.
        table: Its error table; without one, a small one is gathered on some of the images.
        metrics: The ``metrics.jsonl`` of its run.
        seed: The randomness.
        say: Called with what is being done.
    """
    say(f"the bound of {len(data)} images")
    evaluation = evaluate(model, data, seed=seed)
    chosen = chosen_images(data, N_PICTURES, seed)
    say(f"where the bits of {len(chosen)} images go")
    bits = pixel_bits(model, chosen, N_LEVELS, seed)
    if table is None:
        say("the loss at each noise level")
        table = error_table(model, chosen_images(data, TABLE_IMAGES, seed), TABLE_LEVELS, seed)
    say("the best schedules")
    budgets = [k for k in BUDGETS if k <= len(table.gammas)]
    found = optimal_schedules(table, budgets)
    curve = {k: found.bpd(k) for k in budgets if math.isfinite(found.bpd(k))}
    say(f"{N_SAMPLES} samples in {SAMPLE_STEPS} steps")
    n_steps = SAMPLE_STEPS if model.gammas is None else min(SAMPLE_STEPS, len(model.gammas))
    error = table.error[:, 0] / table.n_images
    return Findings(
        evaluation=evaluation,
        pictures=chosen.read(range(len(chosen))),
        bits=bits,
        gammas=table.gammas,
        loss=0.5 * error / (model.n_dims * math.log(2)),
        curve=curve,
        schedule=found[SHOWN] if SHOWN in curve else None,
        samples=sample(model, n_steps, range(N_SAMPLES)),
        training=[json.loads(line) for line in metrics.read_text().splitlines()] if metrics is not None else [],
        provenance=provenance(model, name, data, seed),
    )


@torch.no_grad()
def pixel_bits(model: DiffusionModel, data: Images, n_levels: int, seed: int = 0) -> Float[Tensor, "n h w"]:
    """Returns the diffusion term of each pixel of each image in bits, summed over colours.

    The integral over gamma is a trapezium rule over evenly spread levels, or over a discrete-time model's own.
    """
    model.eval()
    if model.gammas is None:
        ends = (model.noise_schedule.gamma_0.item(), model.noise_schedule.gamma_1.item())
        levels = torch.linspace(*ends, n_levels, dtype=torch.float64)
    else:
        chosen = torch.linspace(0, len(model.gammas) - 1, min(n_levels, len(model.gammas))).round().long()
        levels = model.gammas.detach().cpu().double()[chosen]
    gaps = levels.diff()
    weights = 0.5 * (torch.cat([gaps, gaps.new_zeros(1)]) + torch.cat([gaps.new_zeros(1), gaps]))
    labels = labels_of(model, data)
    parts = [_pixel_nats(model, data, range(i, min(i + BATCH, len(data))), levels, weights, labels, seed)
             for i in range(0, len(data), BATCH)]  # fmt: skip
    return torch.cat(parts) / math.log(2)


def _pixel_nats(
    model: DiffusionModel,
    data: Images,
    indices: range,
    levels: Float[Tensor, " l"],
    weights: Float[Tensor, " l"],
    labels: Tensor | None,
    seed: int,
) -> Float[Tensor, "b h w"]:
    x = to_unit(data.read(indices).to(model.device)).float()
    known = None if labels is None else labels[list(indices)].to(model.device)
    total = torch.zeros(len(indices), *x.shape[2:], dtype=torch.float64)
    for level, (gamma, weight) in enumerate(zip(levels.tolist(), weights.tolist(), strict=True)):
        eps = normals(tuple(x.shape[1:]), indices, "report", seed, level).to(model.device)
        gammas = torch.full((len(indices),), gamma, dtype=torch.float64, device=model.device)
        eps_hat, _ = model.predict(diffuse(x, eps, gammas), gammas, known)
        total += 0.5 * weight * (eps - eps_hat).double().square().sum(1).cpu()
    return total
