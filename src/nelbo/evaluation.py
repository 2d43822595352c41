"""The bound of a data set: an exact pass over every image, each term with its standard error."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nelbo.data.arrays import Labels, as_images
from nelbo.data.images import Images
from nelbo.diffusion import bound
from nelbo.diffusion.bound import Bound, BoundedModel, to_bpd
from nelbo.diffusion.draws import (
    chain_draws,
    evaluation_draws,
    evaluation_times,
    standard_error,
    step_draws,
    to_device,
)
from nelbo.errors import NelboError
from nelbo.models.interface import DiffusionModel, check_n_steps, check_seed
from nelbo.models.labels import check_fits, labels_of
from nelbo.models.precision import precision_of
from nelbo.runtime.agreement import agree
from nelbo.runtime.atomic import write_json
from nelbo.runtime.device import Precision, autocast, set_precision
from nelbo.runtime.processes import World
from nelbo.runtime.progress import Portion
from nelbo.time_schedule.chain import chain_bound
from nelbo.time_schedule.error_table import ErrorTable
from nelbo.time_schedule.method import Drawn, Method, choose_method
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
        drawn: How single steps were drawn: ``evenly``, or in proportion to their cost by a ``pilot`` pass or by an
            error ``table``; ``all`` where every step was walked.
        n_calls: Network calls, each on one image, without those of the pilot pass.
        n_pilot_calls: The pilot pass's.
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
    drawn: Drawn
    n_calls: int
    n_pilot_calls: int

    @property
    def terms(self) -> dict[str, Estimate]:
        """The three terms by name."""
        return {"prior": self.prior, "reconstruction": self.reconstruction, "diffusion": self.diffusion}

    def save(self, path: Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Writes the result as JSON, whole or not at all; the standard error of a single image is null.

        Args:
            path: Where to.
            provenance: Where the result comes from, of :func:`nelbo.models.provenance.provenance`.
        """
        fields = asdict(self) if provenance is None else {**asdict(self), "provenance": provenance}
        write_json(path, fields)


def evaluate(
    model: DiffusionModel,
    data: Images | UInt8[Tensor, "n c h w"],
    n_steps: int | TimeSchedule | Literal["all"] | None = None,
    seed: int = 0,
    n_passes: int = 1,
    batch_size: int = 128,
    precision: str = "auto",
    progress: Callable[[int], object] = lambda n: None,
    table: ErrorTable | None = None,
    world: World | None = None,
    labels: Labels | None = None,
) -> Evaluation:
    """Returns the bound of every image of a data set, averaged.

    Each pass takes an image through one random step, drawn in proportion to its expected cost where that is known: of
    a discrete-time model from a pilot pass over a few of the images, of a bundled model from the error table that
    comes with it, of any model from ``table``. The estimate is unbiased in any case. Image k of the set has its own
    noise and times, so the result does not depend on the batch size, but for rounding.

    Args:
        model: The model.
        data: The images, of the model's shape: a data set, or a tensor of pixel values.
        n_steps: T of the T-step chain, or a time schedule, or None for continuous time (of a discrete-time model, all
            its levels). A time schedule is walked as a whole in each pass; ``"all"`` walks all levels of a
            discrete-time model, as many network calls an image.
        seed: The estimate's randomness.
        n_passes: How often each image is evaluated, at times spread evenly.
        batch_size: Images a network call.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        progress: Called with the number of images done since the last call.
        table: The model's error table, on images like these.
        world: The processes that share the images; each of them makes this call. By default there is this one.
        labels: With a tensor of images, the class of each, integers of any type; a data set has its own.

    Raises:
        NelboError: If the set is empty, its images do not fit the model, the model's output is no number, or a setting
            is out of range, or the time schedule or table is another model's, or labels that it needs are missing.
    """
    data = as_images(data, labels)
    world = World(0, 1, model.device) if world is None else world
    resolved: Precision = agree(world, lambda: _checked(model, data, n_steps, seed, n_passes, batch_size, precision))
    model.eval()
    set_precision(model, model.device, resolved)
    method = choose_method(model, data, n_steps, table, seed, batch_size, resolved, world)
    settings = _Settings(method, seed, n_passes, batch_size, resolved)
    terms = world.total(agree(world, lambda: _terms(model, data, world.share(len(data)), settings, progress)))
    agree(world, lambda: _check_finite(terms))
    phase = evaluation_times(range(len(data)), seed) * n_passes % 1
    return _summary(to_bpd(terms, model.n_dims), phase, settings)


@dataclass(frozen=True)
class _Settings:
    """What all passes of an evaluation share."""

    method: Method
    seed: int
    n_passes: int
    batch_size: int
    precision: Precision


def _checked(
    model: DiffusionModel,
    data: Images,
    n_steps: int | TimeSchedule | Literal["all"] | None,
    seed: int,
    n_passes: int,
    batch_size: int,
    precision: str,
) -> Precision:
    """Returns the precision to evaluate in, if everything that was asked for is in range."""
    check_fits(model, data)
    _check_steps(model, n_steps)
    check_seed(seed)
    for name, value in (("n_passes", n_passes), ("batch_size", batch_size)):
        if value < 1:
            raise NelboError(f"{name} must be at least 1, got {value}")
    return precision_of(model, precision, data, len(data) * n_passes)


def _terms(
    model: DiffusionModel, data: Images, mine: range, settings: _Settings, progress: Callable[[int], object]
) -> Float[Tensor, "n 3"]:
    """Returns the three terms of some of the images in nats, zeros for the others."""
    terms = torch.zeros(len(data), 3, dtype=torch.float64)
    labels = labels_of(model, data)
    for start in range(mine.start, mine.stop, settings.batch_size):
        indices = range(start, min(start + settings.batch_size, mine.stop))
        images = data.read(indices).to(model.device)
        model.check_images(images)
        given = model.given(None if labels is None else labels[list(indices)].to(model.device))
        portion = Portion(len(indices), settings.n_passes * settings.method.n_ticks, progress)
        for which in range(settings.n_passes):
            with torch.no_grad(), autocast(model.device, settings.precision):
                result = _estimate(given, images, indices, settings, which, portion)
            terms[start : indices.stop] += _as_table(result).cpu() / settings.n_passes
        portion.finish()
    return terms


def _estimate(
    model: BoundedModel,
    images: UInt8[Tensor, "b c h w"],
    indices: range,
    settings: _Settings,
    which: int,
    advance: Callable[[int], object],
) -> Bound:
    """Returns one pass's estimate of the bound of some images of a data set."""
    method, seed = settings.method, settings.seed
    if method.schedule is not None:
        eps_0, eps = (noise.to(images.device) for noise in chain_draws(indices, images.shape[1:], seed, which))

        def eps_of(step: int) -> Float[Tensor, "b c h w"]:
            return step_draws(indices, images.shape[1:], seed, which, step).to(images.device)

        own = eps_of if method.has_own_noise else None
        return chain_bound(model, method.schedule, images, eps_0, eps, advance, own)
    draws = evaluation_draws(indices, images.shape[1:], seed, settings.n_passes, which)
    result = bound.bound(model, images, to_device(draws, images.device), method.n_steps, method.profile)
    advance(1)
    return result


def table(evaluations: Sequence[Evaluation]) -> str:
    """Returns evaluations as a table in bits per dimension, one line each, standard errors behind the values."""
    header = ("T", "images", "passes", "bpd", "prior", "reconstruction", "diffusion")
    rows = [header, *(_row(evaluation) for evaluation in evaluations)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _row(evaluation: Evaluation) -> tuple[str, ...]:
    estimates = [Estimate(evaluation.bpd, evaluation.standard_error), *evaluation.terms.values()]
    steps = "inf" if evaluation.n_steps is None else str(evaluation.n_steps)
    cells = [f"{estimate.bpd:.4f} ± {estimate.standard_error:.4f}" for estimate in estimates]
    return (steps, str(evaluation.n_images), str(evaluation.n_passes), *cells)


def _as_table(result: Bound) -> Float[Tensor, "b 3"]:
    return torch.stack([result.prior, result.reconstruction, result.diffusion], dim=1).double()


def _check_steps(model: DiffusionModel, n_steps: int | TimeSchedule | str | None) -> None:
    if isinstance(n_steps, TimeSchedule):
        n_steps.check_model(model)
    elif n_steps != "all":
        check_n_steps(n_steps, model.gammas)  # pyright: ignore[reportArgumentType]
    elif model.gammas is None:
        raise NelboError(
            "the model knows any noise level, so it has no chain of all of them: give a number of steps, or leave "
            "steps out for continuous time"
        )


def _summary(terms: Float[Tensor, "n 3"], phase: Float[Tensor, " n"], settings: _Settings) -> Evaluation:
    estimates = [Estimate(term.mean().item(), standard_error(term, phase)) for term in terms.unbind(1)]
    total, method = terms.sum(1), settings.method
    return Evaluation(
        total.mean().item(),
        standard_error(total, phase),
        *estimates,
        n_images=len(terms),
        n_steps=method.n_steps,
        n_passes=settings.n_passes,
        seed=settings.seed,
        precision=settings.precision,
        drawn=method.drawn,
        n_calls=len(terms) * settings.n_passes * method.n_calls,
        n_pilot_calls=method.n_pilot_calls,
    )


def _check_finite(terms: Float[Tensor, "n 3"]) -> None:
    if not bool(torch.isfinite(terms).all()):
        raise NelboError("the bound is not finite: the model's weights or its noise schedule are damaged")
