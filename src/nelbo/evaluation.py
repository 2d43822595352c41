"""The bound of a data set: an exact pass over every image, each term with its standard error."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nelbo.data.arrays import from_array
from nelbo.data.images import Images
from nelbo.diffusion import bound
from nelbo.diffusion.bound import Bound, BoundedModel, to_bpd
from nelbo.diffusion.draws import chain_draws, evaluation_draws, evaluation_times, to_device
from nelbo.errors import NelboError
from nelbo.models.interface import DiffusionModel, check_n_steps, check_seed
from nelbo.models.labels import check_fits, labels_of
from nelbo.models.precision import precision_of
from nelbo.runtime.atomic import new_file
from nelbo.runtime.device import autocast, set_precision
from nelbo.time_schedule.chain import chain_bound
from nelbo.time_schedule.schedule import TimeSchedule


@dataclass(frozen=True)
class Estimate:
    """A mean over images and its standard error, in bits per dimension."""

    bpd: float
    standard_error: float


@dataclass(frozen=True)
class Evaluation:
    """The bound of a data set.

    Attributes:
        bpd: The bound in bits per dimension: an upper bound on the code length of an image of the set.
        standard_error: Its standard error, over images, times and noise.
        prior: The term KL(q(z_1 | x) || p(z_1)).
        reconstruction: The term E[-log p(x | z_0)].
        diffusion: The diffusion loss.
        n_images: Images evaluated, all of them.
        n_steps: T of the chain, or the network calls of a time schedule; None for continuous time, or for all levels
            of a discrete-time model.
        n_passes: How often each image was evaluated: at one random step, or along a whole time schedule.
        seed: The randomness.
        precision: The arithmetic the network ran in.
    """

    bpd: float
    standard_error: float
    prior: Estimate
    reconstruction: Estimate
    diffusion: Estimate
    n_images: int
    n_steps: int | None
    n_passes: int
    seed: int
    precision: str

    @property
    def terms(self) -> dict[str, Estimate]:
        """The three terms by name."""
        return {"prior": self.prior, "reconstruction": self.reconstruction, "diffusion": self.diffusion}

    def save(self, path: Path) -> None:
        """Writes the result as JSON, whole or not at all; the standard error of a single image is null."""
        with new_file(path) as temporary:
            temporary.write_text(json.dumps(_without_nan(asdict(self)), indent=2) + "\n")


def evaluate(
    model: DiffusionModel,
    data: Images | UInt8[Tensor, "n c h w"],
    n_steps: int | TimeSchedule | None = None,
    seed: int = 0,
    n_passes: int = 1,
    batch_size: int = 128,
    precision: str = "auto",
    progress: Callable[[int], object] = lambda n: None,
) -> Evaluation:
    """Returns the bound of every image of a data set, averaged.

    Image k of the set has its own noise and times, so the result does not depend on the batch size, but for rounding.

    Args:
        model: The model.
        data: The images, of the model's shape: a data set, or a tensor of pixel values. A class-conditional model needs
            a data set with labels.
        n_steps: T of the T-step chain, or a time schedule, or None for continuous time (of a discrete-time model, all
            its levels).
        seed: The estimate's randomness.
        n_passes: How often each image is evaluated, at times spread evenly; T passes of a T-step bound visit every
            step. A time schedule is walked as a whole in each pass.
        batch_size: Images a network call.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        progress: Called with the number of images done since the last call.

    Raises:
        NelboError: If the set is empty, its images do not fit the model, the model's output is no number, or a setting
            is out of range, or the time schedule is another model's, or labels that it needs are missing.
    """
    data = data if isinstance(data, Images) else from_array(data)
    check_fits(model, data)
    _check_steps(model, n_steps)
    check_seed(seed)
    for name, value in (("n_passes", n_passes), ("batch_size", batch_size)):
        if value < 1:
            raise NelboError(f"{name} must be at least 1, got {value}")
    resolved = precision_of(model, precision, data, len(data) * n_passes)
    model.eval()
    set_precision(model, model.device, resolved)
    labels = labels_of(model, data)
    terms = torch.zeros(len(data), 3, dtype=torch.float64)
    for start in range(0, len(data), batch_size):
        indices = range(start, min(start + batch_size, len(data)))
        images = data.read(indices).to(model.device)
        model.check_images(images)
        given = model.given(None if labels is None else labels[list(indices)].to(model.device))
        for which in range(n_passes):
            with torch.no_grad(), autocast(model.device, resolved):
                result = _estimate(given, n_steps, images, indices, seed, n_passes, which)
            terms[start : indices.stop] += _as_table(result).cpu() / n_passes
        progress(len(indices))
    if not bool(torch.isfinite(terms).all()):
        raise NelboError("the bound is not finite: the model's weights or its noise schedule are damaged")
    phase = evaluation_times(range(len(data)), seed) * n_passes % 1
    n_steps = n_steps.n_steps if isinstance(n_steps, TimeSchedule) else n_steps
    return _summary(to_bpd(terms, model.n_dims), phase, n_steps, n_passes, seed, resolved)


def _estimate(
    model: BoundedModel,
    n_steps: int | TimeSchedule | None,
    images: UInt8[Tensor, "b c h w"],
    indices: range,
    seed: int,
    n_passes: int,
    which: int,
) -> Bound:
    """Returns one pass's estimate of the bound of some images of a data set."""
    if isinstance(n_steps, TimeSchedule):
        eps_0, eps = chain_draws(indices, images.shape[1:], seed, which)
        return chain_bound(model, n_steps, images, eps_0.to(images.device), eps.to(images.device))
    draws = evaluation_draws(indices, images.shape[1:], seed, n_passes, which)
    return bound.bound(model, images, to_device(draws, images.device), n_steps)


def table(evaluations: Sequence[Evaluation]) -> str:
    """Returns evaluations as a table in bits per dimension, one line each, standard errors behind the values."""
    header = ("T", "images", "passes", "bpd", "prior", "reconstruction", "diffusion")
    rows = [header, *(_row(evaluation) for evaluation in evaluations)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def standard_error(values: Float[Tensor, " n"], phase: Float[Tensor, " n"]) -> float:
    r"""Returns the standard error of the mean of values that were sampled at evenly spread phases.

    Even spreading removes the variation between times from the mean's error, so the plain deviation would overstate
    it several times. Neighbours in phase differ by what is left, the images and their noise; the phase is a circle,
    and the jump where it closes is an error of the mean too. With few images neighbours are far apart, and what is
    left of the variation between times makes the result too large rather than too small.

    .. math:: \mathrm{se}^2 = \frac{1}{2 n^2} \sum_{i=1}^n (y_{(i+1)} - y_{(i)})^2, \qquad y_{(n+1)} = y_{(1)} .

    Args:
        values: One value per image.
        phase: Where in its cycle the image's time lay.

    References:
        Introduction to Variance Estimation (Wolter, 2007), section 8.2, after estimator v2 of systematic sampling.
    """
    n = len(values)
    if n < 2:
        return math.nan
    around = values[phase.argsort()]
    return math.sqrt((around.roll(-1) - around).square().sum().item() / 2) / n


def _without_nan(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns JSON's view of a result, in which there is no NaN."""
    return json.loads(json.dumps(fields), parse_constant=lambda _: None)


def _row(evaluation: Evaluation) -> tuple[str, ...]:
    estimates = [Estimate(evaluation.bpd, evaluation.standard_error), *evaluation.terms.values()]
    steps = "inf" if evaluation.n_steps is None else str(evaluation.n_steps)
    cells = [f"{estimate.bpd:.4f} ± {estimate.standard_error:.4f}" for estimate in estimates]
    return (steps, str(evaluation.n_images), str(evaluation.n_passes), *cells)


def _as_table(result: Bound) -> Float[Tensor, "b 3"]:
    return torch.stack([result.prior, result.reconstruction, result.diffusion], dim=1).double()


def _summary(
    terms: Float[Tensor, "n 3"],
    phase: Float[Tensor, " n"],
    n_steps: int | None,
    n_passes: int,
    seed: int,
    precision: str,
) -> Evaluation:
    estimates = [Estimate(term.mean().item(), standard_error(term, phase)) for term in terms.unbind(1)]
    total = terms.sum(1)
    return Evaluation(
        total.mean().item(),
        standard_error(total, phase),
        *estimates,
        n_images=len(terms),
        n_steps=n_steps,
        n_passes=n_passes,
        seed=seed,
        precision=precision,
    )


def _check_steps(model: DiffusionModel, n_steps: int | TimeSchedule | None) -> None:
    if isinstance(n_steps, TimeSchedule):
        n_steps.check_model(model)
    else:
        check_n_steps(n_steps, model.gammas)
