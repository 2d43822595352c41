r"""A pre-trained DDPM, any network of (z, timestep) with its betas, as a diffusion model.

Its pixels and latents differ from ours by changes of units, which leave the bound as it is: :mod:`nelbo.interop.units`.
The one exception is the variance :math:`\beta` of a pair: :math:`\beta / \tilde\beta = \sigma_t^2 / \sigma_s^2`
with the sigmas of its own units, so the kernels that have it are given the shift of gamma between the two.

References:
    Denoising Diffusion Probabilistic Models (Ho et al., 2020). https://arxiv.org/abs/2006.11239
"""

import json
from typing import Literal

from jaxtyping import Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from nelbo.diffusion import gaussian
from nelbo.diffusion.decoder import DECODERS
from nelbo.diffusion.noise_schedule import Table
from nelbo.diffusion.prediction import to_noise
from nelbo.diffusion.reverse import Forward, LearnedRange, Posterior, ReverseKernel
from nelbo.errors import NelboError
from nelbo.interop.betas import checked, exit_std_of, gammas_of
from nelbo.interop.units import DEFAULT_UNITS, Units
from nelbo.models.interface import DiffusionModel
from nelbo.models.settings import Frozen

NEAR = 1e-4  # Gammas closer than this are the same timestep: the finest schedules in use are ten times coarser.
REVERSE_KERNELS = {"fixed_small": "posterior", "fixed_large": "forward", "learned_range": "learned-range"}

PredictionName = Literal["eps", "x", "v"]
Variance = Literal["fixed_small", "fixed_large", "learned_range"]


class DDPMConfig(Frozen):
    """What a DDPM's network means.

    Attributes:
        image_shape: Channels, height and width of the images.
        prediction: What the output stands for: the noise ``eps``, the image ``x`` or ``v`` = alpha eps - sigma x.
        variance: That of its reverse steps: beta tilde, beta, or per pixel between the two, by as many outputs more.
        clip: How far from the middle of its pixel range a denoised image may lie, in half ranges: 1 is the range
            itself; None for no clipping.
        n_classes: Classes it is conditioned on; 0 for none.
    """

    image_shape: tuple[Literal[1, 3], PositiveInt, PositiveInt]
    prediction: PredictionName = "eps"
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
        units: What it was trained on.

    Attributes:
        net: The network.
        units: What it was trained on.
        betas: The N betas, float64, on the CPU.
        n_timesteps: N, with a last one that holds no signal and so is none of the levels.
        reverse_kernel: The kernel it was trained with, by name: ``posterior``, ``forward`` or ``learned-range``.

    Raises:
        NelboError: If the betas are out of range.
    """

    def __init__(
        self,
        net: nn.Module,
        betas: Float[Tensor, " n"],
        config: DDPMConfig,
        net_identity: str = "",
        units: Units = DEFAULT_UNITS,
    ) -> None:
        super().__init__()
        betas = checked(betas)
        self.is_foreign = True
        self.net = net
        self.config, self.units = config, units
        self.image_shape = config.image_shape
        self.noise_schedule = Table((gammas_of(betas) - units.gamma_shift).tolist())
        self.decoder = DECODERS["discretised_gaussian"]
        self.reverse_kernel = REVERSE_KERNELS[config.variance]
        self.reverse = _kernel(config.variance, units)
        self.exit_std = exit_std_of(betas) / units.scale
        is_learned = config.variance == "learned_range"
        self.exit_std_large = betas[0].sqrt().item() / units.scale if is_learned else None
        self.betas, self.n_timesteps = betas, len(betas)
        self.n_classes = config.n_classes
        settings = [config.model_dump(mode="json"), len(betas), net_identity]
        # What came later is appended where it applies, so that older models keep their fingerprints. Those of learned
        # variances have another one since the last step's variance is learned, too: it changes their bound.
        settings += [units.range] if units != DEFAULT_UNITS else []
        self.identity = json.dumps([*settings, "learned last step"] if is_learned else settings)

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
        return self.predict(z, gamma, labels)[0]

    def predict(
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
        theirs = ours + self.units.gamma_shift
        a, b = gaussian.alpha(theirs), gaussian.sigma(theirs)
        z = self.units.latents(z, ours, a, b)
        prediction, nu = self._split(self.net(z, timesteps, labels), z)
        eps_hat = to_noise(self.config.prediction, prediction, z, theirs)
        return self.units.clipped(eps_hat, z, a, b, self.config.clip), nu

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
            cure = ""
            if not is_learned and output.shape[1] == 2 * channels:
                cure = ": if half of its channels are variances, give variance='learned_range'"
            raise NelboError(f"the network's output has shape {tuple(output.shape)}, expected {expected}{cure}")
        output = output.float()
        return output[:, :channels], (output[:, channels:] + 1) / 2 if is_learned else None


def _kernel(variance: Variance, units: Units) -> ReverseKernel:
    """Returns the kernel of its reverse steps, with beta in its own units."""
    if variance == "fixed_small":
        return Posterior()
    return Forward(units.gamma_shift) if variance == "fixed_large" else LearnedRange(units.gamma_shift)
