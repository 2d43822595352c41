"""From a latent to pictures by a solver: its levels, where it enters, and what is done to the network's image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nelbo.diffusion.bound import BoundedModel
from nelbo.diffusion.decoder import to_values
from nelbo.diffusion.gaussian import denoised
from nelbo.diffusion.gaussian_entry import GaussianEntry
from nelbo.errors import NelboError
from nelbo.models.interface import DiffusionModel
from nelbo.runtime.randomness import next_normals
from nelbo.samplers.levels import nearest, spread
from nelbo.samplers.solver import Solver

CLEANEST = -10.0  # Below, a latent is its image to a tenth of a grey level.
ENTRY = 2.0  # Where a Gaussian entry starts: a spectrum says as much of noisier latents as the network does.


@dataclass(frozen=True, eq=False)
class Route:
    """How a solver goes from noise to an image.

    Attributes:
        solver: The solver.
        gammas: Its levels, decreasing; each is a network call.
        entry: The Gaussian of the first latent; None for standard normal noise.
        clip: Whether predicted images are clipped to [-1, 1] (static thresholding).

    References:
        Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding (Saharia et al., 2022), section
        2.3, for thresholding. https://arxiv.org/abs/2205.11487
    """

    solver: Solver
    gammas: Sequence[float]
    entry: GaussianEntry | None = None
    clip: bool = True

    def walk(
        self,
        model: BoundedModel,
        image_shape: tuple[int, int, int],
        generators: Sequence[np.random.Generator],
        device: torch.device,
        progress: Callable[[int], object],
    ) -> UInt8[Tensor, "b c h w"]:
        """Returns an image for each generator."""

        def noise() -> Float[Tensor, "b c h w"]:
            return next_normals(image_shape, generators).to(device)

        def predict(z: Float[Tensor, "b c h w"], gamma: float) -> Float[Tensor, "b c h w"]:
            gammas = torch.full((len(z),), gamma, dtype=torch.float64, device=device)
            x_hat = denoised(z, model.predict(z, gammas)[0], gammas)
            progress(1)
            if not bool(torch.isfinite(x_hat).all()):
                raise NelboError("the sampled latents are not finite: the model's weights or levels are damaged")
            return x_hat.clamp(-1, 1) if self.clip else x_hat

        z = noise() if self.entry is None else self.entry.draw(noise(), self.gammas[0])
        return to_values(self.solver.solve(predict, z, self.gammas, noise))


def route(
    model: DiffusionModel,
    solver: Solver,
    n_calls: int,
    entry: GaussianEntry | None = None,
    gammas: Sequence[float] | None = None,
    clip: bool = True,
) -> Route:
    """Returns the route of a solver in so many network calls.

    Args:
        model: The model.
        solver: The solver.
        n_calls: Network calls.
        entry: The Gaussian of the model's images, with which the route enters at gamma 2 instead of at the noisiest
            level.
        gammas: The levels; by default EDM's rule between the ends, for a discrete-time model its nearest own levels.
        clip: Whether predicted images are clipped to [-1, 1].

    Raises:
        NelboError: If the solver cannot make so many calls, the model lacks such levels, or the entry is of images of
            another shape.
    """
    n_levels, own = solver.n_levels(n_calls), model.gammas
    solver.check(own is not None)
    if entry is not None:
        entry.check_shape(model.image_shape)
    if gammas is None:
        lowest, highest = (end.item() for end in (model.noise_schedule.gamma_0, model.noise_schedule.gamma_1))
        if own is not None:
            lowest, highest = own[0].item(), own[-1].item()
        high = highest if entry is None else min(ENTRY, highest)
        gammas = spread("edm", n_levels, max(lowest, min(CLEANEST, high - 1)), high)
    if len(gammas) != n_levels:
        raise NelboError(f"{len(gammas)} noise levels were given for {n_calls} network calls, which are {n_levels}")
    if own is not None:
        gammas = [own[position].item() for position in nearest(gammas, own.tolist())]
    return Route(solver, gammas, entry, clip)
