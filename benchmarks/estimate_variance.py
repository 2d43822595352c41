"""How much noise a bound has when its steps are drawn evenly, and when they are drawn where the cost is.

Two discrete-time models of 1000 levels with linear betas: the closed-form denoiser of a Gaussian, and the bundled
mnist-tiny, as a DDPM sees it. The same images are measured with many seeds, in one pass each, by `nelbo.evaluate`,
whose pilot pass counts, and with even timesteps at as many network calls or more. Errors are root mean squares of the
distance from the walk of all steps. The error that an estimate claims is larger than the one printed, as it is that
of a mean over all images like these.
"""

import json
import math
from dataclasses import asdict, dataclass

import torch
from _paired import out_option
from jaxtyping import Float, UInt8
from torch import Tensor

import nelbo
from nelbo.diffusion import bound
from nelbo.diffusion.draws import evaluation_draws
from nelbo.models.interface import DiffusionModel
from nelbo.nets.closed_form import GaussianDenoiser
from nelbo.runtime.atomic import new_file

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
N_IMAGES, N_SEEDS = 64, 20


@dataclass(frozen=True)
class Comparison:
    """Errors of one model's bound in bits per dimension, of estimates of ``n_calls`` and ``n_even_calls`` calls."""

    model: str
    bpd: float
    n_calls: int
    error: float
    claimed_error: float
    n_even_calls: int
    even_error: float

    @property
    def ratio(self) -> float:
        """How many times smaller the error is than that of even timesteps."""
        return self.even_error / self.error


def gaussian() -> tuple[DiffusionModel, UInt8[Tensor, "n c h w"]]:
    """Returns the exact denoiser of Gaussian images with a spectrum 1/f^2, and some of these images."""
    shape, n_dims = (1, 8, 8), 64
    rng = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(n_dims, n_dims, generator=rng, dtype=torch.float64))[0]
    covariance = axes @ torch.diag(2.0 / torch.arange(1, n_dims + 1, dtype=torch.float64) ** 2) @ axes.T
    x = torch.randn(N_IMAGES, n_dims, generator=rng, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    images = (128 * (x + 1) - 0.5).round().clamp(0, 255).to(torch.uint8).reshape(-1, *shape)
    return _ddpm(GaussianDenoiser(torch.zeros(shape), covariance), shape, "gaussian"), images


def digits() -> tuple[DiffusionModel, UInt8[Tensor, "n c h w"]]:
    """Returns mnist-tiny as a DDPM, and images that it draws, as no digits come with the package."""
    model = nelbo.load("mnist-tiny")
    images = nelbo.sample(model, 64, range(N_IMAGES))

    def denoise(z: Float[Tensor, "b c h w"], gamma: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        ends = model.noise_schedule.gamma_0.item(), model.noise_schedule.gamma_1.item()
        return model.denoise(z, gamma.clamp(*ends))

    return _ddpm(denoise, model.image_shape, "mnist-tiny"), images


def _ddpm(denoise, shape, name: str) -> DiffusionModel:  # noqa: ANN001
    """Returns a denoiser of our latents and gammas as a DDPM."""
    gammas = torch.log(torch.expm1(-torch.log1p(-BETAS).cumsum(0)))

    def eps(z: Tensor, t: Tensor) -> Tensor:
        return denoise(z, gammas[t])

    return nelbo.from_callable(eps, BETAS, shape, name=name, clip=None)


def even_bpd(model: DiffusionModel, images: UInt8[Tensor, "n c h w"], seed: int, n_passes: int) -> float:
    """Returns the mean bound from even timesteps."""
    total = 0.0
    with torch.no_grad():
        for which in range(n_passes):
            draws = evaluation_draws(range(len(images)), model.image_shape, seed, n_passes, which)
            total += bound.bound(model.given(), images, draws).bpd.mean().item() / n_passes
    return total


def compare(name: str, model: DiffusionModel, images: UInt8[Tensor, "n c h w"], n_seeds: int) -> Comparison:
    """Returns both errors over seeds."""
    truth = nelbo.evaluate(model, images, "all", precision="float32").bpd
    found = [nelbo.evaluate(model, images, seed=seed, precision="float32") for seed in range(n_seeds)]
    n_calls = found[0].n_calls + found[0].n_pilot_calls
    n_passes = -(-n_calls // found[0].n_calls)
    even = [even_bpd(model, images, seed, n_passes) for seed in range(n_seeds)]
    return Comparison(
        model=name,
        bpd=truth,
        n_calls=n_calls,
        error=_rms([result.bpd - truth for result in found]),
        claimed_error=_rms([result.standard_error for result in found]),
        n_even_calls=n_passes * found[0].n_calls,
        even_error=_rms([bpd - truth for bpd in even]),
    )


def _rms(values: list[float]) -> float:
    return math.sqrt(sum(value**2 for value in values) / len(values))


if __name__ == "__main__":
    out = out_option(__doc__)
    print(f"{N_IMAGES} images, {N_SEEDS} seeds; errors in bits per dimension, root mean squares")
    print(f"{'model':<12}{'bpd':>8}{'calls':>8}{'error':>9}{'claimed':>9}{'even calls':>12}{'error':>9}{'ratio':>8}")
    results = []
    for name, (model, images) in {"gaussian": gaussian(), "mnist-tiny": digits()}.items():
        row = compare(name, model, images, N_SEEDS)
        results.append(asdict(row) | {"ratio": row.ratio})
        print(
            f"{row.model:<12}{row.bpd:>8.3f}{row.n_calls:>8}{row.error:>9.4f}{row.claimed_error:>9.4f}"
            f"{row.n_even_calls:>12}{row.even_error:>9.4f}{row.ratio:>8.1f}",
            flush=True,
        )
    if out is not None:
        with new_file(out) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n")
