"""A pilot pass: a few images at a few dozen levels of a chain say where its cost lies."""

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.data.images import Images
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.gaussian import diffuse
from nelbo.diffusion.importance import Profile
from nelbo.errors import NelboError
from nelbo.models.interface import DiffusionModel
from nelbo.models.labels import labels_of
from nelbo.runtime.agreement import agree
from nelbo.runtime.device import Precision, autocast
from nelbo.runtime.processes import World
from nelbo.runtime.randomness import normals

N_IMAGES, N_LEVELS = 4, 32
_STEPS_PER_OCTAVE = 64  # Costs are rounded to this, so that the network's own rounding does not move the draws.


def n_pilot_calls(n_images: int, n_pairs: int) -> int:
    """Returns the network calls, each on one image, of a pilot pass over a chain of so many steps."""
    return min(n_images, N_IMAGES) * min(n_pairs, N_LEVELS)


@torch.no_grad()
def pilot(
    model: DiffusionModel,
    data: Images,
    levels: Float[Tensor, " n"],
    seed: int,
    batch_size: int,
    precision: Precision,
    world: World,
) -> Profile:
    r"""Returns where the cost of a chain lies, from images spread over a data set.

    At each chosen level the mean cost of the step down from there, under the model's own kernel, is divided by
    :math:`\mathrm{expm1}(\gamma_t - \gamma_s)`, which varies between steps as the levels' spacing does. What is left is
    smooth in gamma. One noise image per image serves all levels. It is never that of the estimate itself, which
    therefore stays unbiased.

    Args:
        model: The model, in its precision.
        data: The images.
        levels: The chain's levels, increasing, float64.
        seed: The estimate's randomness.
        batch_size: Images a network call.
        precision: The network's arithmetic.
        world: The processes, which share the levels.

    Raises:
        NelboError: If the network's output is not finite.
    """
    uppers = spread(levels, N_LEVELS)
    mine = world.share(len(uppers))
    costs = torch.zeros(len(uppers), dtype=torch.float64)

    def measure() -> None:
        if mine:
            costs[list(mine)] = _costs(model, data, levels, uppers[mine.start : mine.stop], seed, batch_size, precision)

        if not bool(torch.isfinite(costs).all()):
            raise NelboError("the bound is not finite: the model's weights or its noise schedule are damaged")

    agree(world, measure)
    costs = world.total(costs)
    costs = costs.clamp(min=1e-12 * costs.max().clamp(min=1e-30).item())
    rounded = torch.exp2((costs.log2() * _STEPS_PER_OCTAVE).round() / _STEPS_PER_OCTAVE)
    return Profile(levels[uppers], rounded)


def spread(levels: Float[Tensor, " n"], n: int) -> list[int]:
    """Returns the positions of about n levels, evenly spread in gamma, of those that are the upper end of a step.

    Example:
        >>> spread(torch.tensor([-9.0, -8.0, -7.5, -7.0, 3.0, 5.0]), 3)
        [1, 4, 5]
    """
    if len(levels) - 1 <= n:
        return list(range(1, len(levels)))
    wanted = torch.linspace(levels[1].item(), levels[-1].item(), n, dtype=levels.dtype)
    nearest = (levels[1:] - wanted[:, None]).abs().argmin(1) + 1
    return sorted(set(nearest.tolist()))


def _costs(
    model: DiffusionModel,
    data: Images,
    levels: Float[Tensor, " n"],
    uppers: list[int],
    seed: int,
    batch_size: int,
    precision: Precision,
) -> Float[Tensor, " k"]:
    n_images, n_levels = min(len(data), N_IMAGES), len(uppers)
    indices = [i * len(data) // n_images for i in range(n_images)]
    x = to_unit(data.read(indices).to(model.device)).repeat_interleave(n_levels, 0)
    eps = normals(model.image_shape, indices, "pilot eps", seed).to(model.device).repeat_interleave(n_levels, 0)
    labels = labels_of(model, data)
    labels = None if labels is None else labels[indices].to(model.device).repeat_interleave(n_levels)
    upper = torch.tensor(uppers).repeat(n_images)
    gamma_s, gamma_t = levels[upper - 1].to(model.device), levels[upper].to(model.device)
    costs = []
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        given = model.given(None if labels is None else labels[part])
        with autocast(model.device, precision):
            eps_hat, nu = given.predict(diffuse(x[part], eps[part], gamma_t[part]), gamma_t[part])
        costs.append(model.reverse.step_kl(eps[part] - eps_hat, gamma_s[part], gamma_t[part], nu))
    return (torch.cat(costs) / torch.expm1(gamma_t - gamma_s)).cpu().reshape(n_images, n_levels).mean(0)
