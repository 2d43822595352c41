"""The chain of a time schedule: its bound, measured step by step, and the image it draws."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nelbo.diffusion.bound import Bound, BoundedModel, exit_loss, prior_kl
from nelbo.diffusion.decoder import to_unit, to_values
from nelbo.diffusion.gaussian import denoised, diffuse
from nelbo.errors import NelboError
from nelbo.runtime.randomness import next_normals
from nelbo.time_schedule.schedule import TimeSchedule


def chain_bound(
    model: BoundedModel,
    schedule: TimeSchedule,
    images: UInt8[Tensor, "b c h w"],
    eps_0: Float[Tensor, "b c h w"],
    eps: Float[Tensor, "b c h w"],
    progress: Callable[[int], object] = lambda n: None,
    eps_of: Callable[[int], Float[Tensor, "b c h w"]] | None = None,
) -> Bound:
    """Returns an estimate of each image's bound under a schedule, from every one of its K network calls.

    Args:
        model: The model.
        schedule: The schedule.
        images: 8-bit images.
        eps_0: Noise of the latent that is decoded without the network.
        eps: Noise of the latents that the network sees, one for all levels.
        progress: Called with 1 after each step.
        eps_of: Returns the noise of a step's latent, where each is to have its own: a sum over many steps is then far
            less noisy. Leaving for the data keeps ``eps``.
    """
    x = to_unit(images)
    diffusion = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for step in range(len(schedule.gammas) - 1):
        gamma_s, gamma_t = _pair(schedule, step, x)
        noise = eps if eps_of is None else eps_of(step)
        eps_hat, nu = model.predict(diffuse(x, noise, gamma_t), gamma_t)
        diffusion += schedule.kernel(step).step_kl(noise - eps_hat, gamma_s, gamma_t, nu)
        progress(1)
    gamma = schedule.gammas[-1].to(x.device)
    prior = prior_kl(x, gamma) if schedule.entry is None else schedule.entry.kl(x, gamma)
    return Bound(prior, exit_nats(model, schedule, images, eps_0, eps), diffusion, x[0].numel())


def exit_nats(
    model: BoundedModel,
    schedule: TimeSchedule,
    images: UInt8[Tensor, "b c h w"],
    eps_0: Float[Tensor, "b c h w"],
    eps: Float[Tensor, "b c h w"],
) -> Float[Tensor, " b"]:
    """Returns -log p(x | z) of the schedule's exit in nats per image."""
    x, gamma = to_unit(images), schedule.gammas[0].to(images.device)
    gammas = gamma.expand(len(x))
    if schedule.exit is None and model.exit_std is None:
        return -model.decoder.log_likelihood(images, diffuse(x, eps_0, gammas), gamma)
    z = diffuse(x, eps, gammas)
    eps_hat, nu = model.predict(z, gammas)
    x_hat = denoised(z, eps_hat, gammas)
    if schedule.exit is not None:
        return -schedule.exit.log_likelihood(images, x_hat)
    assert model.exit_std is not None
    return exit_loss(images, x_hat, model.exit_std, model.exit_std_large, nu)


def walk(
    model: BoundedModel,
    schedule: TimeSchedule,
    generators: Sequence[np.random.Generator],
    device: torch.device,
    progress: Callable[[int], object],
) -> UInt8[Tensor, "b c h w"]:
    """Returns an image for each generator: the reverse chain from pure noise to the data."""

    def noise() -> Float[Tensor, "b c h w"]:
        return next_normals(schedule.image_shape, generators).to(device)

    z = noise() if schedule.entry is None else schedule.entry.draw(noise(), schedule.gammas[-1].item())
    for step in range(len(schedule.gammas) - 2, -1, -1):
        gamma_s, gamma_t = _pair(schedule, step, z)
        eps_hat, nu = model.predict(z, gamma_t)
        z = schedule.kernel(step).step(z, eps_hat, gamma_s, gamma_t, noise(), nu)
        progress(1)
    _check_finite(z)
    gamma = schedule.gammas[0].to(z.device)
    if schedule.exit is None and model.exit_std is None:
        return model.decoder.mode(z, gamma)
    gammas = gamma.expand(len(z))
    x_hat = denoised(z, model.predict(z, gammas)[0], gammas)
    progress(1)
    _check_finite(x_hat)
    return to_values(x_hat) if schedule.exit is None else schedule.exit.sample(x_hat, noise())


def _pair(schedule: TimeSchedule, step: int, like: Tensor) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Returns the lower and the upper gamma of a step, for each image."""
    ends = schedule.gammas[step : step + 2].to(like.device)
    return ends[0].expand(len(like)), ends[1].expand(len(like))


def _check_finite(z: Tensor) -> None:
    if not bool(torch.isfinite(z).all()):
        raise NelboError("the sampled latents are not finite: the model's weights or its noise schedule are damaged")
