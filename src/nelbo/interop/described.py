"""What nelbo understood of a model, in lines for people, and what may be wrong with it."""

import torch

from nelbo.diffusion.bound import prior_kl_of, to_bpd
from nelbo.interop.ddpm import DDPM
from nelbo.interop.denoiser import Denoiser
from nelbo.models.interface import DiffusionModel

MAX_PRIOR = 0.05  # Bits per dimension: a chain that ends in noise has less than a hundredth of that.


def described(model: DiffusionModel) -> list[tuple[str, str]]:
    """Returns what is known of a model, as names and values."""
    counted = model.net if isinstance(model, DDPM | Denoiser) else model  # Not the ends of a range.
    lines = [
        ("images", f"{tuple(model.image_shape)} (channels, height, width)"),
        ("parameters", str(sum(parameter.numel() for parameter in counted.parameters()))),
    ]
    if isinstance(model, DDPM | Denoiser):
        low, high = model.units.range
        lines.append(("pixels", f"0 .. 255 as {low:g} .. {high:g}"))
    if isinstance(model, DDPM):
        first, last = model.betas[[0, -1]].tolist()
        lines.append(("timesteps", f"{model.n_timesteps}, betas {first:.6g} to {last:.6g}"))
        lines.append(("predicts", f"{model.config.prediction}, {_clip(model.config.clip)}"))
    if isinstance(model, Denoiser):
        lines.append(("levels", f"continuous, {model.coordinate} {model.range[0]:g} to {model.range[1]:g}"))
        lines.append(("predicts", f"{model.prediction}, {_clip(model.clip)}"))
    schedule = model.noise_schedule
    lines += [
        ("gamma", f"{schedule.gamma_0.item():.4f} to {schedule.gamma_1.item():.4f}"),
        ("kernel", model.reverse.name),
        ("last step", _last_step(model)),
        ("prior", f"at most {prior_bpd(model):.4f} bits per dimension"),
    ]
    return [*lines, ("classes", str(model.n_classes))] if model.n_classes else lines


def prior_bpd(model: DiffusionModel) -> float:
    """Returns the prior's divergence of an image in black and white, the largest there is, in bits per dimension."""
    nats = prior_kl_of(torch.tensor(float(model.n_dims)), model.n_dims, model.noise_schedule.gamma_1.detach().cpu())
    return to_bpd(nats, model.n_dims).item()


def doubts(model: DiffusionModel) -> list[str]:
    """Returns warnings of what a user may not have meant."""
    found = []
    if prior_bpd(model) > MAX_PRIOR:
        found.append(
            f"the chain does not reach noise: its last latent still holds signal, which costs up to "
            f"{prior_bpd(model):.2f} bits per dimension; check the betas or the range"
        )
    if isinstance(model, DDPM) and model.n_timesteps > len(model.gammas):
        last = model.n_timesteps - 1
        found.append(f"zero terminal SNR: timestep {last} holds no signal and is dropped; {last - 1} is the last level")
    return found


def _clip(clip: float | None) -> str:
    return "not clipped" if clip is None else f"clipped at {clip:g} half ranges of the pixels"


def _last_step(model: DiffusionModel) -> str:
    if model.exit_std is None:
        return "the cleanest latent is decoded without the network"
    stds = [std * 128 for std in (model.exit_std, model.exit_std_large) if std is not None]
    return f"around the network's image, standard deviation {' to '.join(f'{std:.3g}' for std in stds)} grey levels"
