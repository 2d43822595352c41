"""A model seen through something else: what a view leaves as it is."""

from dataclasses import dataclass

from torch import Tensor

from nelbo.bound import BoundedModel
from nelbo.decoder import Decoder
from nelbo.noise_schedule import NoiseSchedule
from nelbo.reverse import ReverseKernel


@dataclass(frozen=True)
class View:
    """Everything of a model that the bound needs, but its denoiser and the scale of its latents.

    Attributes:
        model: The model.
    """

    model: BoundedModel

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """Gamma as a function of time."""
        return self.model.noise_schedule

    @property
    def gammas(self) -> Tensor | None:
        """The gammas of a discrete-time model."""
        return self.model.gammas

    @property
    def exit_std(self) -> float | None:
        """The standard deviation of the last step, where that is a network evaluation."""
        return self.model.exit_std

    @property
    def decoder(self) -> Decoder:
        """p(x | z_0), of a variance-preserving z_0."""
        return self.model.decoder

    @property
    def reverse(self) -> ReverseKernel:
        """The kernel of the variance-preserving chain; what a step costs does not depend on the latents' scale."""
        return self.model.reverse
