"""The weighted loss as what training minimises; see :mod:`nelbo.diffusion.weighting`."""

from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from nelbo.diffusion.bound import Draws, to_bpd
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.weighting import weighted_integrand
from nelbo.models.vdm import VDM
from nelbo.train.importance import GammaImportance


class WeightedObjective(nn.Module):
    """The batch's mean weighted diffusion loss, nats over dimensions and log 2 as the bound's bits per dimension.

    Args:
        model: The model; its noise schedule is fixed.
        weighting: A key of ``WEIGHTINGS``.
        is_adaptive: Whether noise levels are drawn where the loss is, rather than as the noise schedule has them.
    """

    def __init__(self, model: VDM, weighting: str, is_adaptive: bool) -> None:
        super().__init__()
        self.model, self.weighting = model, weighting
        schedule = model.noise_schedule
        ends = (schedule.gamma_0.item(), schedule.gamma_1.item())
        self.importance = GammaImportance(*ends).to(model.device) if is_adaptive else None

    def forward(
        self,
        images: UInt8[Tensor, "b c h w"],
        draws: Draws,
        labels: Int64[Tensor, " b"] | None = None,
        codes: Int64[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, ""]:
        """Returns the mean over the batch, differentiable.

        Args:
            images: 8-bit images.
            draws: The randomness of the estimate.
            labels: The class of each image, for a class-conditional model.
            codes: How each image was transformed; None for images as they are.
        """
        gamma, density = self._noise_levels(draws.u)
        model = self.model.given(labels, codes)
        integrand = weighted_integrand(model, to_unit(images), draws.eps_t, gamma, self.weighting)
        if self.importance is not None:
            self.importance.note(gamma, integrand.detach())
        return to_bpd(integrand / density, self.model.n_dims).mean()

    def _noise_levels(self, u: Float[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Returns the noise levels of some uniform numbers, and the density with which they are drawn."""
        if self.importance is not None:
            return self.importance(u)
        schedule = self.model.noise_schedule
        return schedule(u), 1 / schedule.derivative(u)
