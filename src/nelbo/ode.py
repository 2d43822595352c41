"""The likelihood of a data set by probability flow: an upper bound on code length that needs no chain of steps."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nelbo.data.arrays import Labels, as_images
from nelbo.data.images import Images
from nelbo.diffusion.bound import to_bpd
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.dequantisation import DEQUANTISATIONS
from nelbo.diffusion.gaussian import log_alpha, over_image
from nelbo.diffusion.probability_flow import Tolerances, log_density
from nelbo.errors import NelboError
from nelbo.models.interface import DiffusionModel, check_seed
from nelbo.models.labels import check_fits, labels_of
from nelbo.runtime.atomic import write_json
from nelbo.runtime.device import set_precision
from nelbo.runtime.randomness import generator

TRACES = ("hutchinson", "exact")


@dataclass(frozen=True)
class OdeEvaluation:
    """The code length of a data set by probability flow.

    Attributes:
        bpd: Bits per dimension, averaged over images. An upper bound in expectation on the code length of the ODE's
            own model, but for the integrator's error; with ``n_samples`` above 1 under the exact trace alone.
        standard_error: Its standard error over images; NaN of a single one.
        n_images: Images evaluated.
        dequantisation: The noise within a cell.
        trace: How the flow's divergence was measured.
        n_samples: Draws of the noise K inside the logarithm.
        rtol: The integrator's relative tolerance.
        atol: The integrator's absolute tolerance.
        n_evaluations: Network evaluations, each with a backward pass, of one image and draw, averaged.
        seed: The randomness.
    """

    bpd: float
    standard_error: float
    n_images: int
    dequantisation: str
    trace: str
    n_samples: int
    rtol: float
    atol: float
    n_evaluations: float
    seed: int

    def summary(self) -> str:
        """Returns the result in two lines for people."""
        line = f"{self.bpd:.4f} ± {self.standard_error:.4f} bits per dimension, {self.n_images} images"
        how = f"probability flow, {self.dequantisation} dequantisation, {self.n_samples} draws, {self.trace} trace"
        cost = f"rtol {self.rtol:g}, atol {self.atol:g}, {self.n_evaluations:.0f} network evaluations a draw"
        return f"{line}\n{how}, {cost}, float32, seed {self.seed}"

    def save(self, path: Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Writes the result as JSON, whole or not at all; the standard error of a single image is null.

        Args:
            path: Where to.
            provenance: Where the result comes from, of :func:`nelbo.models.provenance.provenance`.
        """
        write_json(path, asdict(self) if provenance is None else {**asdict(self), "provenance": provenance})


def ode_likelihood(
    model: DiffusionModel,
    data: Images | UInt8[Tensor, "n c h w"],
    dequantisation: str = "truncated_normal",
    trace: str = "hutchinson",
    n_samples: int = 1,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    seed: int = 0,
    batch_size: int = 32,
    progress: Callable[[int], object] = lambda n: None,
    labels: Labels | None = None,
) -> OdeEvaluation:
    r"""Returns the code length of every image of a data set by probability flow, averaged.

    .. math:: -\log \frac1K \sum_{k=1}^K \frac{p(\tilde x_k)}{q(\tilde x_k \mid x)}, \qquad
              \log p(\tilde x) = \log p(z_0 = \alpha_0 \tilde x) + D \log\alpha_0

    Each image has its own noise, a function of the seed and its position. Images of a batch share the integrator's
    steps, each within its tolerances, so the batch size changes the result by no more than those allow. The network
    runs in float32: an adaptive integrator takes bfloat16's rounding for stiffness. Hutchinson's estimate is unbiased
    for the logarithm of a density, not inside an average over K > 1: there its noise makes the result too small.

    Args:
        model: A model of continuous time.
        data: The images, of the model's shape: a data set, or a tensor of pixel values.
        dequantisation: A key of :data:`nelbo.diffusion.dequantisation.DEQUANTISATIONS`.
        trace: ``hutchinson``, by one random probe, or ``exact``, by one backward pass a dimension.
        n_samples: Draws K of the noise that the importance-weighted average is over.
        rtol: The integrator's relative tolerance, see :mod:`nelbo.diffusion.probability_flow`.
        atol: The integrator's absolute tolerance.
        seed: The randomness.
        batch_size: Images a network call.
        progress: Called with the number of images done since the last call.
        labels: With a tensor of images, the class of each, integers of any type; a data set has its own.

    Raises:
        NelboError: If the images do not fit the model, the model is one of discrete time, torchdiffeq is missing, the
            integrator fails, the result is no number, or a setting is out of range.
    """
    data = as_images(data, labels)
    tolerances = Tolerances(rtol, atol)
    check_ode_settings(model, dequantisation, trace, n_samples, batch_size, seed)
    check_fits(model, data)
    labels = labels_of(model, data)
    model.eval()
    set_precision(model, model.device, "float32")
    nats, n_calls = torch.zeros(len(data), dtype=torch.float64), 0
    for start in range(0, len(data), batch_size):
        indices = range(start, min(start + batch_size, len(data)))
        images = data.read(indices)
        model.check_images(images)
        known = None if labels is None else labels[list(indices)]
        log_weights = []
        for which in range(n_samples):
            draws = _Draws(indices, which, seed, trace)
            log_weight, calls = _log_weight(model, images, known, draws, dequantisation, tolerances)
            log_weights.append(log_weight)
            n_calls += calls * len(indices)
        nats[start : indices.stop] = math.log(n_samples) - torch.logsumexp(torch.stack(log_weights), 0).cpu()
        progress(len(indices))
    if not bool(torch.isfinite(nats).all()):
        raise NelboError("the likelihood is not finite: the model's weights or its noise schedule are damaged")
    bpd = to_bpd(nats, model.n_dims)
    error = bpd.std().item() / math.sqrt(len(bpd)) if len(bpd) > 1 else math.nan
    n_evaluations = n_calls / (len(bpd) * n_samples)
    return OdeEvaluation(
        bpd.mean().item(), error, len(bpd), dequantisation, trace, n_samples, rtol, atol, n_evaluations, seed
    )


def check_ode_settings(
    model: DiffusionModel, dequantisation: str, trace: str, n_samples: int, batch_size: int, seed: int
) -> None:
    """Raises NelboError unless the model has a probability flow and the settings of it make sense."""
    if model.gammas is not None:
        raise NelboError("the probability flow needs a model of continuous time, and this one has discrete timesteps")
    for name, value, known in (("dequantisation", dequantisation, DEQUANTISATIONS), ("trace", trace, TRACES)):
        if value not in known:
            raise NelboError(f"{name} is one of {', '.join(known)}, got {value!r}")
    for name, value in (("n_samples", n_samples), ("batch_size", batch_size)):
        if value < 1:
            raise NelboError(f"{name} must be at least 1, got {value}")
    check_seed(seed)


@dataclass(frozen=True)
class _Draws:
    """The randomness of one draw of a batch's noise: a function of the seed, the draw and the image's position."""

    indices: range
    which: int
    seed: int
    trace: str

    def noise(self, shape: tuple[int, ...]) -> Float[Tensor, "b *shape"]:
        rngs = [generator("ode noise", self.seed, self.which, k) for k in self.indices]
        return torch.from_numpy(np.stack([rng.random(shape) for rng in rngs]))

    def probe(self, shape: tuple[int, ...]) -> Float[Tensor, "b *shape"] | None:
        if self.trace == "exact":
            return None
        rngs = [generator("ode probe", self.seed, self.which, k) for k in self.indices]
        return torch.from_numpy(np.stack([2.0 * rng.integers(0, 2, shape) - 1 for rng in rngs]))


def _log_weight(
    model: DiffusionModel,
    images: Tensor,
    labels: Tensor | None,
    draws: _Draws,
    dequantisation: str,
    tolerances: Tolerances,
) -> tuple[Float[Tensor, " b"], int]:
    """Returns the logarithm of p(x~) / q(x~ | x) of one draw for each image, and the number of network calls."""
    device, shape = model.device, tuple(images.shape[1:])
    gamma_0, gamma_1 = (end.item() for end in (model.noise_schedule.gamma_0, model.noise_schedule.gamma_1))
    noise, log_q = DEQUANTISATIONS[dequantisation](draws.noise(shape).to(device), gamma_0)
    log_alpha_0 = log_alpha(torch.full((len(images),), gamma_0, dtype=torch.float64, device=device))
    z_0 = over_image(log_alpha_0.exp(), noise) * (to_unit(images.to(device)).double() + noise)
    given = model.given(None if labels is None else labels.to(device))
    precision = _precision(model)

    def denoise(z: Tensor, gamma: Tensor) -> Tensor:
        return given.predict(z.to(precision), gamma)[0]

    probe = draws.probe(shape)
    probe = None if probe is None else probe.to(device)
    log_p, n_calls = log_density(denoise, z_0, gamma_0, gamma_1, probe, tolerances)
    return log_p + model.n_dims * log_alpha_0 - log_q.flatten(1).sum(1), n_calls


def _precision(model: DiffusionModel) -> torch.dtype:
    """Returns float32 for a network; closed-form denoisers, without weights, are asked in float64."""
    has_weights = any(parameter.dtype == torch.float32 for parameter in model.parameters())
    return torch.float32 if has_weights else torch.float64
