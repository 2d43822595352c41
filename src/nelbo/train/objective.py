"""What training minimises: the bound, or as much of it as training can change."""

from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from nelbo.diffusion.bound import BoundedModel, Draws, diffusion, diffusion_at, prior_kl, reconstruction, to_bpd
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.learned_schedule import fork, join
from nelbo.diffusion.noise_schedule import Learned
from nelbo.models.interface import DiffusionModel


class Objective(nn.Module):
    """The batch's mean bound in bits per dimension.

    Where the noise schedule's ends are fixed, the prior and the reconstruction depend on no weight and are left out.
    The interior of a learned schedule does not change the bound of continuous time, and descends the mean of the
    squared diffusion losses instead, up to a constant the variance of the estimate (appendix I.2 of the paper).

    Args:
        model: The model whose bound it is.
        n_steps: T of the chain, or None for continuous time.
    """

    def __init__(self, model: DiffusionModel, n_steps: int | None) -> None:
        super().__init__()
        self.model = model
        self.n_steps = n_steps

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
        model = self.model.given(labels, codes)
        loss = self._diffusion(model, images, draws)
        if self.model.noise_schedule.moves_its_ends:
            loss = loss + self._of_the_ends(model, images, draws)
        return loss.mean()

    def of_squares(self) -> list[nn.Parameter]:
        """Returns the parameters that receive the gradient of the mean square, not of the mean."""
        return self.model.noise_schedule.interior if self.n_steps is None else []

    def _diffusion(self, model: BoundedModel, images: UInt8[Tensor, "b c h w"], draws: Draws) -> Float[Tensor, " b"]:
        schedule, n_dims = self.model.noise_schedule, self.model.n_dims
        if self.n_steps is not None or not isinstance(schedule, Learned):
            return to_bpd(diffusion(model, images, draws, self.n_steps), n_dims)
        gamma, slope, token = fork(schedule, draws.u)
        return join(to_bpd(diffusion_at(model, to_unit(images), draws.eps_t, gamma, slope), n_dims), token)

    def _of_the_ends(self, model: BoundedModel, images: UInt8[Tensor, "b c h w"], draws: Draws) -> Float[Tensor, " b"]:
        """Returns the terms that depend on nothing learned but the schedule's ends."""
        prior = prior_kl(to_unit(images), self.model.noise_schedule.gamma_1)
        return to_bpd(prior + reconstruction(model, images, draws.eps_0, self.n_steps), self.model.n_dims)
