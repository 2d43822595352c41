r"""A pre-trained DDPM, any network of (z, timestep) with its betas, as a diffusion model.

Two things differ from a model of ours, and both are changes of units, which leave the bound as it is.

*Pixels.* A DDPM is trained on :math:`y = v / 127.5 - 1`, where ours are :math:`x = 2 (v + \tfrac12) / 256 - 1`. There
is no offset between the two:

.. math:: y = k x, \qquad k = \frac{256}{255},

and the cells of the pixel values coincide, :math:`y \pm 1/255 \leftrightarrow x \pm 1/256`.

*Latents.* Its latent :math:`z' = \alpha' y + \sigma' \epsilon` is one of :math:`x` with a signal :math:`k` times as
strong. Divided by :math:`c = \sqrt{k^2 \alpha'^2 + \sigma'^2}` it is a variance-preserving latent again,

.. math:: z = z' / c = \alpha x + \sigma \epsilon, \qquad
          \gamma = \log\frac{\sigma'^2}{k^2 \alpha'^2} = \gamma' - 2 \log k, \qquad c = \sigma' / \sigma,

with the same noise :math:`\epsilon`, so :math:`\hat\epsilon` needs no change. A divergence between densities of
:math:`z_s` does not depend on its units; every step costs what it costs in theirs. Only the prior
:math:`\mathcal N(0, I)` of the last latent stands for one of variance :math:`c_T^2 = 1 + (k^2 - 1) \alpha_T'^2` in
theirs, 1.0000003 for Ho et al.'s betas. And the variance :math:`\beta` of a pair, unlike :math:`\tilde\beta`, depends
on the units: that of our pair is :math:`c_t^2 / c_s^2` times theirs, 1 for neighbours and never below 0.992.

References:
    Denoising Diffusion Probabilistic Models (Ho et al., 2020). https://arxiv.org/abs/2006.11239
"""

import json
import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from nelbo.diffusion import gaussian
from nelbo.diffusion.gaussian import over_image
from nelbo.diffusion.noise_schedule import Table
from nelbo.diffusion.prediction import to_noise
from nelbo.diffusion.reverse import FIXED_KERNELS
from nelbo.errors import NelboError
from nelbo.interop.betas import checked, exit_std_of, gammas_of
from nelbo.models.config import DECODERS, Frozen
from nelbo.models.interface import DiffusionModel

PIXEL_SCALE = 256 / 255
GAMMA_SHIFT = 2 * math.log(PIXEL_SCALE)  # Their gamma less ours.
NEAR = 1e-4  # Gammas closer than this are the same timestep: the finest schedules in use are ten times coarser.
REVERSE_KERNELS = {"fixed_small": "posterior", "fixed_large": "forward", "learned_range": "learned-range"}

Prediction = Literal["eps", "x", "v"]
Variance = Literal["fixed_small", "fixed_large", "learned_range"]


class DDPMConfig(Frozen):
    """What a DDPM's network means.

    Attributes:
        image_shape: Channels, height and width of the images.
        prediction: What the output stands for: the noise ``eps``, the image ``x`` or ``v`` = alpha eps - sigma x.
        variance: That of its reverse steps: beta tilde, beta, or per pixel between the two, by as many outputs more.
        clip: How far from 0 a denoised image, in the network's own units, may lie; None for no clipping.
        n_classes: Classes it is conditioned on; 0 for none.
    """

    image_shape: tuple[Literal[1, 3], PositiveInt, PositiveInt]
    prediction: Prediction = "eps"
    variance: Variance = "fixed_small"
    clip: float | None = Field(default=1.0, gt=0)
    n_classes: int = Field(default=0, ge=0)


class DDPM(DiffusionModel):
    """A discrete-time model of another program.

    Args:
        net: The network: (latents in its own units, int64 timesteps, labels or None) to its output, of as many
            channels as the image, or twice as many with learned variances.
        betas: Its N betas, in float64.
        config: What its output means.
        net_identity: What tells the network from others of the same weights, such as its number of attention heads.

    Attributes:
        reverse_kernel: The kernel it was trained with, by name: ``posterior``, ``forward`` or ``learned-range``.

    Raises:
        NelboError: If the betas are out of range.
    """

    def __init__(self, net: nn.Module, betas: Float[Tensor, " n"], config: DDPMConfig, net_identity: str = "") -> None:
        super().__init__()
        betas = checked(betas)
        self.net = net
        self.config = config
        self.image_shape = config.image_shape
        self.noise_schedule = Table((gammas_of(betas) - GAMMA_SHIFT).tolist())
        self.decoder = DECODERS["discretised_gaussian"]
        self.reverse_kernel = REVERSE_KERNELS[config.variance]
        self.reverse = FIXED_KERNELS[self.reverse_kernel]
        self.exit_std = exit_std_of(betas) / PIXEL_SCALE
        self.n_timesteps = len(betas)
        self.n_classes = config.n_classes
        self.identity = json.dumps([config.model_dump(mode="json"), len(betas), net_identity])

    @property
    def gammas(self) -> Float[Tensor, " n"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The gammas of the timesteps 0, 1, ..., in our units, float64, where the parameters live."""
        return self.noise_schedule.gammas  # pyright: ignore[reportReturnType]

    def denoise(
        self, z: Float[Tensor, "b c h w"], gamma: Float[Tensor, " b"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        r"""Returns :math:`\hat\epsilon(z; \gamma)`, the noise expected in each latent, in float32.

        Args:
            z: The latents.
            gamma: Their gammas, each one of the model's own.
            labels: Their classes, of a class-conditional model.

        Raises:
            NelboError: If a gamma is none of the model's, or labels are missing or not expected. Whether they are in
                range :meth:`check_labels` asks, once and not at every network call, for which a GPU would have to wait.
        """
        return self.denoise_with_range(z, gamma, labels)[0]

    def denoise_with_range(
        self, z: Float[Tensor, "b c h w"], gamma: Float[Tensor, " b"], labels: Int[Tensor, " n"] | None = None
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"] | None]:
        r"""Returns :math:`\hat\epsilon(z; \gamma)` and, of a model with learned variances, :math:`\nu`.

        Arguments and errors are those of :meth:`denoise`.
        """
        if (labels is None) != (self.n_classes == 0):
            wanted = f"a label in 0 .. {self.n_classes - 1} for each image" if self.n_classes else "no labels"
            raise NelboError(f"the model has {self.n_classes} classes, so its network takes {wanted}")
        timesteps = self.timesteps_at(gamma)
        ours = self.gammas[timesteps]
        theirs = ours + GAMMA_SHIFT
        z = over_image(gaussian.sigma(theirs) / gaussian.sigma(ours), z) * z
        prediction, nu = self._split(self.net(z, timesteps, labels), z)
        return self._clipped(to_noise(self.config.prediction, prediction, z, theirs), z, theirs), nu

    def timesteps_at(self, gamma: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Returns the timesteps, 0 .. N - 1, at which the model's noise has these gammas.

        Raises:
            NelboError: If a gamma is none of the model's.
        """
        gamma = gamma.to(self.gammas)
        distance, timesteps = (gamma[:, None] - self.gammas).abs().min(1)
        apart = ~(distance < NEAR)
        if bool(apart.any()):
            first, last = self.gammas[[0, -1]].tolist()
            raise NelboError(
                f"the model knows the {len(self.gammas)} gammas of its own timesteps alone, from {first:.4f} to "
                f"{last:.4f}, and {gamma[apart][0].item():.4f} is none of them: take a chain over its own timesteps"
            )
        return timesteps

    def _split(
        self, output: Float[Tensor, "b o h w"], z: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"] | None]:
        """Returns the network's prediction, and nu from the channels of its variances, in float32."""
        is_learned = self.config.variance == "learned_range"
        channels = z.shape[1]
        expected = (len(z), channels * (2 if is_learned else 1), *z.shape[2:])
        if tuple(output.shape) != expected:
            raise NelboError(f"the network's output has shape {tuple(output.shape)}, expected {expected}")
        output = output.float()
        return output[:, :channels], (output[:, channels:] + 1) / 2 if is_learned else None

    def _clipped(
        self, eps_hat: Float[Tensor, "b c h w"], z: Float[Tensor, "b c h w"], gamma: Float[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Returns the noise that the clipped denoised image stands for; digits are lost only where it is clipped."""
        clip = self.config.clip
        if clip is None:
            return eps_hat
        x_hat = gaussian.denoised(z, eps_hat, gamma)
        return torch.where(x_hat.abs() > clip, gaussian.noise_of(z, x_hat.clamp(-clip, clip), gamma), eps_hat)
