"""Any Python function as a diffusion model: what it takes is a function of (x, t) and the betas it was trained with."""

from collections.abc import Callable, Sequence

from jaxtyping import Float, Int
from pydantic import ValidationError
from torch import Tensor, nn

from nelbo.errors import NelboError
from nelbo.interop.betas import checked
from nelbo.interop.ddpm import DDPM, DDPMConfig, Prediction, Variance
from nelbo.interop.identity import identity_of
from nelbo.models.config import first_problem


class CallableNet(nn.Module):
    """A function in the place of a network; a module keeps its parameters and moves with the model."""

    def __init__(self, function: Callable[..., Tensor], has_labels: bool) -> None:
        super().__init__()
        self.function = function
        self.has_labels = has_labels

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Int[Tensor, " b"], labels: Int[Tensor, " b"] | None
    ) -> Float[Tensor, "b o h w"]:
        """Returns what the function says."""
        output = self.function(x, t, labels) if self.has_labels else self.function(x, t)
        if not isinstance(output, Tensor) or output.ndim != 4:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise NelboError(f"the function must return a tensor of shape (b, c, h, w), got {got}")
        return output


def from_callable(
    eps: Callable[..., Tensor],
    betas: Sequence[float] | Tensor,
    image_shape: tuple[int, int, int],
    prediction: Prediction = "eps",
    variance: Variance = "fixed_small",
    clip: float | None = 1.0,
    n_classes: int = 0,
) -> DDPM:
    """Returns any pre-trained DDPM as a model, which evaluation, time schedules and sampling take.

    Args:
        eps: A function of (x, t), or of (x, t, labels) with classes: x are float32 latents, shape (b, c, h, w), of
            images scaled by v / 127.5 - 1; t are int64 timesteps 0 .. N - 1, shape (b,). It returns the noise
            expected in x; with learned variances, then the interpolation coefficients in [-1, 1], in as many
            channels more. A torch module is fine, and moves with the model. Schedules and error tables are tied to
            what :func:`~nelbo.interop.identity.identity_of` sees of the function when it is given.
        betas: The N betas it was trained with.
        image_shape: Channels, height and width of the images.
        prediction: What it returns: the noise ``eps``, the image ``x`` or ``v`` = alpha eps - sigma x.
        variance: That of its reverse steps: ``fixed_small``, ``fixed_large`` or ``learned_range``.
        clip: How far from 0 a denoised image may lie; None for no clipping.
        n_classes: Classes it is conditioned on; 0 for none.

    Raises:
        NelboError: If a setting is out of range.

    Example:
        >>> import torch
        >>> def eps(x, t):
        ...     return x  # says that all is noise
        >>> model = from_callable(eps, torch.linspace(1e-4, 0.02, 1000), (3, 32, 32))
        >>> model.gammas.shape
        torch.Size([1000])
    """
    try:
        config = DDPMConfig(
            image_shape=image_shape,  # pyright: ignore[reportArgumentType]
            prediction=prediction,
            variance=variance,
            clip=clip,
            n_classes=n_classes,
        )
    except ValidationError as error:
        raise NelboError(f"from_callable: {first_problem(error)}") from None
    if not callable(eps):
        raise NelboError(f"from_callable takes a function of (x, t), got {type(eps).__name__}")
    return DDPM(CallableNet(eps, n_classes > 0), checked(betas), config, identity_of(eps)).eval()
