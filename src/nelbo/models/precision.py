"""In which arithmetic a model's network runs by default: bfloat16 only where it does not change the bound."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.data.images import Images
from nelbo.diffusion.bound import exit_loss
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.draws import chain_draws
from nelbo.diffusion.gaussian import denoised, diffuse
from nelbo.models.interface import DiffusionModel
from nelbo.models.labels import labels_of
from nelbo.runtime.device import Precision, autocast, fastest_precision, resolve_precision

TOLERANCE = 0.002  # Bits per dimension.
N_LEVELS, N_IMAGES = 12, 4  # Of the probe.
MIN_CALLS = 1000  # A run of fewer calls on an image is not worth the probe.


def precision_of(model: DiffusionModel, precision: str, data: Images | None = None, n_calls: int = 0) -> Precision:
    """Returns the precision that a name stands for; ``auto`` is the device's fastest that the model is known to bear.

    Models of ours were trained in bfloat16. Another program's runs in float32, unless a few of the images that it is to
    be run on cost the same in both.

    Args:
        model: The model, on its device.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        data: The images that it is to be run on.
        n_calls: How many calls on one image the run takes.

    Raises:
        NelboError: If the name is unknown.
    """
    if precision != "auto" or not model.is_foreign:
        return resolve_precision(precision, model.device)
    if fastest_precision(model.device) == "float32" or data is None or n_calls < MIN_CALLS:
        return "float32"
    return "bfloat16" if abs(bfloat16_excess(model, data)) <= TOLERANCE else "float32"


@torch.no_grad()
def bfloat16_excess(model: DiffusionModel, data: Images) -> float:
    """Returns how many bits per dimension a few images cost more in bfloat16, by the trapezoidal rule over gamma."""
    model.eval()
    indices = [i * len(data) // N_IMAGES for i in range(N_IMAGES)] if len(data) >= N_IMAGES else list(range(len(data)))
    images, labels = data.read(indices).to(model.device), labels_of(model, data)
    known = model.given(None if labels is None else labels[indices].to(model.device))
    x, eps = to_unit(images), chain_draws(indices, model.image_shape, 0)[1].to(model.device)
    gammas, excess, last_step = _levels(model), [], 0.0
    for i, gamma in enumerate(gammas):
        level = gamma.expand(len(x))
        squares = []
        for precision in ("float32", "bfloat16"):
            with autocast(model.device, precision):
                eps_hat, nu = known.predict(diffuse(x, eps, level), level)
            squares.append((eps - eps_hat).double().square().flatten(1).sum(1).mean().item())
            if i == 0 and known.exit_std is not None:
                losses = exit_loss(
                    images, denoised(diffuse(x, eps, level), eps_hat, level), known.exit_std, known.exit_std_large, nu
                )
                last_step += losses.mean().item() * (1 if precision == "bfloat16" else -1)
        excess.append(squares[1] - squares[0])
    diffusion = 0.5 * torch.trapezoid(torch.tensor(excess, dtype=torch.float64), gammas.cpu().double()).item()
    return (diffusion + last_step) / (model.n_dims * math.log(2))


def _levels(model: DiffusionModel) -> Float[Tensor, " n"]:
    """Returns noise levels spread evenly over gamma, of a discrete-time model those of its own nearest to them."""
    schedule = model.noise_schedule
    even = torch.linspace(schedule.gamma_0.item(), schedule.gamma_1.item(), N_LEVELS, dtype=torch.float64)
    even = even.to(model.device)
    if model.gammas is None:
        return even
    return model.gammas[(even[:, None] - model.gammas).abs().argmin(1).unique()]
