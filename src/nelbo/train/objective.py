"""What training minimises: the bound, or as much of it as training can change."""

from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from nelbo.bound import Draws, bound, diffusion, to_bpd
from nelbo.model import VDM


class Objective(nn.Module):
    """The batch's mean bound in bits per dimension.

    Where the noise schedule is fixed, the prior and the reconstruction depend on no weight and are left out.

    Args:
        model: The model whose bound it is.
        n_steps: T of the chain, or None for continuous time.
    """

    def __init__(self, model: VDM, n_steps: int | None) -> None:
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
        if self.model.noise_schedule.is_learned:
            nats = bound(model, images, draws, self.n_steps).total
        else:
            nats = diffusion(model, images, draws, self.n_steps)
        return to_bpd(nats, self.model.n_dims).mean()
