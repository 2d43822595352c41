r"""Freezing: from a trained model to one in integers, with proofs, known answers and a measured price.

A frozen network's :math:`\hat\epsilon` differs a little from the trained one's. By the continuous-time bound (eq. 17
of the paper) an error independent of the rest costs

.. math:: \tfrac12 (\gamma_1 - \gamma_0) / \ln 2 \cdot \mathbb E (\hat\epsilon' - \hat\epsilon)^2 \text{ bits per
          dimension.}

References:
    Variational Diffusion Models (Kingma et al., 2021), section 4. https://arxiv.org/abs/2107.00630
"""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nelbo.data.open import open_images
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.gaussian import diffuse
from nelbo.errors import NelboError
from nelbo.integer.arithmetic import EXECUTOR_VERSION, LATENT_BITS, RESULT_BITS
from nelbo.integer.executors import run_float
from nelbo.integer.frozen_model import Cost, FrozenModel, Header, digest
from nelbo.integer.program import Program
from nelbo.integer.quantise import quantised
from nelbo.integer.rescale import rescaled
from nelbo.integer.tensors import Tensors
from nelbo.integer.translate import translate
from nelbo.models.interface import DiffusionModel
from nelbo.models.vdm import VDM
from nelbo.runtime.randomness import normals, permutation
from nelbo.sampling import sample

MAX_COST_BPD = 0.001
N_GAMMAS = 24  # Gammas of the calibration, and others, between them, of the measurement.
N_SAMPLE_STEPS = 32
_SIZES = (math.inf, 160.0, 40.0)  # Of features: they are made smaller where they would leave a norm's accumulators.
_LIMBS = (2, 3, 4)  # Fewer are faster: the first that is cheap enough is taken.
_KNOWN_TIMES = (0.0, 0.4, 1.0)


class _Ranges:
    """The largest sizes and mean squares of everything that is quantised."""

    def __init__(self) -> None:
        self.largest: dict[str, float] = {}
        self.squares: dict[str, float] = {}

    def __call__(self, name: str, value: Tensor) -> None:
        self.largest[name] = max(self.largest.get(name, 0.0), float(value.abs().max()))
        self.squares[name] = max(self.squares.get(name, 0.0), float(value.square().mean()))


def choose_images(model: DiffusionModel, data: str | None, n_images: int, seed: int = 0) -> UInt8[Tensor, "n c h w"]:
    """Returns images to freeze a model with: some of a data set, chosen at random, or drawn from the model.

    Args:
        model: The model.
        data: What :func:`nelbo.data.open.open_images` opens; None draws from the model.
        n_images: How many; fewer if the set is smaller.
        seed: The choice.

    Raises:
        NelboError: If the data cannot be read.
    """
    if data is None:
        return sample(model, N_SAMPLE_STEPS, range(n_images), n_images, "float32").cpu()
    images = open_images(data)
    return images.read(sorted(permutation(len(images), "freeze images", seed)[:n_images].tolist()))


@torch.no_grad()
def freeze(
    model: DiffusionModel,
    images: UInt8[Tensor, "n c h w"],
    data: str = "images",
    seed: int = 0,
    max_cost_bpd: float | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> FrozenModel:
    """Returns a model in integers.

    Half of the images set the limits, the other half measures the price.

    Args:
        model: The model.
        images: At least two images like those that it was trained on, never of a test set.
        data: What the images are, for the record.
        seed: The noise of calibration and measurement.
        max_cost_bpd: The price above which the model is refused; None for ``MAX_COST_BPD``.
        progress: Called with 1 after each of ``2 N_GAMMAS`` steps, or more if the first attempt fails.

    Raises:
        NelboError: If the network has an operation that is not covered, an accumulator could not be proved exact, or
            the price is too high.
    """
    model.check_images(images)
    if len(images) < 2:
        raise NelboError(f"freezing takes at least 2 images, one to calibrate and one to measure, got {len(images)}")
    max_cost_bpd = MAX_COST_BPD if max_cost_bpd is None else max_cost_bpd
    program, tensors = translate(model.eval())
    x = to_unit(images.cpu())
    problem = NelboError("freeze: no number of digits was tried")
    for n_limbs, attempt in _attempts(
        program, tensors, lambda weights: _calibrate(model, program, weights, x[::2], seed, progress)
    ):
        if isinstance(attempt, NelboError):
            problem = attempt
            continue
        frozen = FrozenModel(_header(model, attempt[0], n_limbs), attempt[1], executor="auto")
        cost = _measure(model, frozen, x[1::2], seed, data, progress)
        if max(cost.bpd, cost.difference_bpd - 3 * cost.standard_error) <= max_cost_bpd:
            return _with_known_answers(frozen, cost, x[1:2], seed)
        problem = NelboError(f"freeze: integers would cost {cost.bpd:.5f} bits per dimension, over {max_cost_bpd:g}")
    raise problem


def _attempts(
    program: Program, tensors: Tensors, calibrate: Callable[[Tensors], _Ranges]
) -> Iterator[tuple[int, tuple[Program, Tensors] | NelboError]]:
    """Yields networks in integers by their digits, or why one does not fit: more digits, then smaller features."""
    ranges = calibrate(tensors)
    for size in _SIZES:
        if max(ranges.largest.values()) > size:
            tensors = rescaled(program, tensors, ranges.largest, size)
            ranges = calibrate(tensors)
        elif size < math.inf:
            continue
        for n_limbs in _LIMBS:
            try:
                yield n_limbs, quantised(program, tensors, ranges.largest, ranges.squares, n_limbs)
            except NelboError as error:
                yield n_limbs, error


def _calibrate(
    model: DiffusionModel,
    program: Program,
    tensors: Tensors,
    x: Float[Tensor, "b c h w"],
    seed: int,
    progress: Callable[[int], object],
) -> _Ranges:
    """Returns the ranges of everything that is quantised, over images at all noise levels."""
    ranges, weights = _Ranges(), {name: tensor.float() for name, tensor in tensors.items()}
    for i, gamma in enumerate(_gammas(model, 0.0)):
        run_float(program, weights, _latents(x, gamma, seed, 2 * i)[0], gamma, ranges)
        progress(1)
    return ranges


def _measure(
    model: DiffusionModel,
    frozen: FrozenModel,
    x: Float[Tensor, "b c h w"],
    seed: int,
    data: str,
    progress: Callable[[int], object],
) -> Cost:
    """Returns what a frozen model costs, from latents of images at all noise levels."""
    changes, differences = [], []
    for i, gamma in enumerate(_gammas(model, 0.5)):
        z, eps = _latents(x, gamma, seed, 2 * i + 1)
        fixed = (z.double() * 2**LATENT_BITS).round()
        eps_hat = frozen.predict(fixed, gamma).eps_hat.cpu() / 2**RESULT_BITS
        floating = _denoise(model, fixed / 2**LATENT_BITS, gamma)
        changes.append((eps_hat - floating).square().mean())
        differences.append(((eps - eps_hat).square() - (eps - floating).square()).flatten(1).mean(1))
        progress(1)
    scale = 0.5 * (frozen.header.gamma_1 - frozen.header.gamma_0) / math.log(2)
    change, per_image = float(torch.stack(changes).mean()), torch.stack(differences).mean(0)
    error = float(per_image.std(correction=0)) / math.sqrt(max(1, len(x) - 1))
    return Cost(
        bpd=scale * change,
        difference_bpd=scale * float(per_image.mean()),
        standard_error=scale * error,
        rms_error=math.sqrt(change),
        n_images=len(x),
        data=data,
    )


def _with_known_answers(frozen: FrozenModel, cost: Cost, x: Float[Tensor, "1 c h w"], seed: int) -> FrozenModel:
    """Returns the frozen model with its price and the answers of the reference executor."""
    low, high = frozen.header.gamma_0, frozen.header.gamma_1
    gammas = tuple(low + (high - low) * time for time in _KNOWN_TIMES)
    reference, tensors = FrozenModel(frozen.header, frozen.tensors, executor="reference"), dict(frozen.tensors)
    for i, gamma in enumerate(gammas):
        z = (_latents(x, gamma, seed, 2 * N_GAMMAS + i)[0].double() * 2**LATENT_BITS).round()
        tensors[f"known.{i}.z"] = z.int()
        tensors[f"known.{i}.result"] = reference.result(z, gamma).int()
    return FrozenModel(frozen.header.model_copy(update={"cost": cost, "known_gammas": gammas}), tensors)


def _header(model: DiffusionModel, program: Program, n_limbs: int) -> Header:
    return Header(
        executor_version=EXECUTOR_VERSION,
        program=program,
        model_sha256=model_sha256(model),
        gamma_0=float(model.noise_schedule.gamma_0),
        gamma_1=float(model.noise_schedule.gamma_1),
        n_limbs=n_limbs,
    )


def model_sha256(model: DiffusionModel) -> str:
    """Returns the SHA-256 of a model's configuration and weights."""
    # Without defaults, so that settings which later versions add change nothing.
    config = model.config.model_dump_json(exclude_defaults=True) if isinstance(model, VDM) else ""
    return digest(config, model.state_dict())


def _gammas(model: DiffusionModel, phase: float) -> list[float]:
    """Returns gammas evenly spaced over the model's range, at a phase of the spacing."""
    low, high = float(model.noise_schedule.gamma_0), float(model.noise_schedule.gamma_1)
    n = N_GAMMAS - 1 if phase == 0 else N_GAMMAS
    return [low + (high - low) * (i + phase) / n for i in range(N_GAMMAS)]


def _latents(
    x: Float[Tensor, "b c h w"], gamma: float, seed: int, stream: int
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """Returns latents of images and their noise."""
    eps = normals(tuple(x.shape[1:]), range(len(x)), "freeze", seed, stream)
    return diffuse(x, eps, torch.full((len(x),), gamma, dtype=torch.float64)), eps


def _denoise(model: DiffusionModel, z: Float[Tensor, "b c h w"], gamma: float) -> Float[Tensor, "b c h w"]:
    gammas = torch.full((len(z),), gamma, dtype=torch.float64, device=model.device)
    return model.predict(z.float().to(model.device), gammas)[0].double().cpu()
