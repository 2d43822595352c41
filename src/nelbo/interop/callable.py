"""Any Python function as a diffusion model: what it takes is a function of (x, t) and the betas it was trained with."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from pydantic import ValidationError
from torch import Tensor, nn

from nelbo.errors import NelboError
from nelbo.interop.betas import Numbers, betas_of
from nelbo.interop.ddpm import DDPM, DDPMConfig, PredictionName, Variance
from nelbo.interop.foreign_net import ForeignNet, classes_of, settings_identity
from nelbo.interop.units import Number, Pair, units_of
from nelbo.models.config import first_problem

Time = Literal["index", "index/T"] | Callable[[Tensor], Tensor]


class TimedNet(nn.Module):
    """A function of latents and of the times that it calls the timesteps.

    Args:
        net: The function.
        times: Its time at each timestep 0 .. N - 1.
    """

    times: Tensor

    def __init__(self, net: ForeignNet, times: Shaped[Tensor, " n"]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("times", times)

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Int[Tensor, " b"], labels: Int[Tensor, " b"] | None
    ) -> Float[Tensor, "b o h w"]:
        """Returns what the function says."""
        return self.net(x, self.times[t], labels)


def from_callable(
    eps: Callable[..., Tensor],
    betas: Numbers | None = None,
    image_shape: tuple[int, int, int] | None = None,
    prediction: PredictionName = "eps",
    variance: Variance = "fixed_small",
    clip: Number | None = 1.0,
    n_classes: int = 0,
    *,
    alphas_cumprod: Numbers | None = None,
    pixel_range: Pair = (-1.0, 1.0),
    time: Time = "index",
    null_class: int | None = None,
    guidance: Number | None = None,
    name: str | None = None,
) -> DDPM:
    """Returns any pre-trained DDPM as a model, which evaluation, time schedules and sampling take.

    Networks that the function reaches (see :mod:`nelbo.interop.found`) are put into evaluation mode and move with the
    model. Schedules and error tables are tied to their weights and settings; of a function that hides its weights, give
    a ``name``.

    Args:
        eps: A function of (x, t), or of (x, t, labels) with classes: x are float32 latents, shape (b, c, h, w), of
            images scaled to ``pixel_range``; t as ``time`` says, shape (b,). It returns the noise expected in x, or
            what ``prediction`` says; with learned variances, then the interpolation coefficients in [-1, 1], in as many
            channels more. A torch module is fine.
        betas: The N betas it was trained with.
        image_shape: Channels, height and width of the images.
        prediction: What it returns: the noise ``eps``, the image ``x`` or ``v`` = alpha eps - sigma x.
        variance: That of its reverse steps: ``fixed_small``, ``fixed_large`` or ``learned_range``.
        clip: How far from the middle of its pixel range a denoised image may lie, in half ranges: 1 is the range
            itself; None for no clipping.
        n_classes: Classes it is conditioned on; 0 for none.
        alphas_cumprod: The cumulative product of 1 - beta, in place of the betas.
        pixel_range: What the values 0 and 255 of a pixel are to the network: (-1, 1), (-0.5, 0.5), (0, 1), (0, 255).
        time: What it calls timestep i of 0 .. N - 1: ``index``, i as int64; ``index/T``, i / N as float32; or a
            function of the int64 tensor of all timesteps.
        null_class: The label of no class: of a function with labels it makes an unconditional model, with ``n_classes``
            it serves ``guidance``.
        guidance: w, with which predictions are f(null) + w (f(class) - f(null)), a model of its own with its own bound.
        name: What the model is called in schedules and tables, in place of a digest of its networks.

    Raises:
        NelboError: If a setting is out of range, or one is given for another.

    Example:
        >>> import torch
        >>> def eps(x, t):
        ...     return x  # says that all is noise
        >>> model = from_callable(eps, torch.linspace(1e-4, 0.02, 1000), (3, 32, 32))
        >>> model.gammas.shape
        torch.Size([1000])
    """
    if image_shape is None:
        raise NelboError("from_callable: give image_shape=(channels, height, width)")
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
    known, units = betas_of(betas, alphas_cumprod), units_of(pixel_range)
    net = ForeignNet(eps, config.image_shape[0], classes_of(n_classes, null_class, guidance))
    times = _times(time, len(known))
    return DDPM(TimedNet(net, times), known, config, settings_identity([], net, name), units).eval()


def _times(time: Time, n: int) -> Shaped[Tensor, " n"]:
    """Returns the time that the function calls each timestep."""
    index = torch.arange(n)
    if not callable(time):
        if time not in ("index", "index/T"):
            raise NelboError(f"time is 'index', 'index/T' or a function of the timesteps, got {time!r:.60}")
        return index if time == "index" else index / n
    try:
        times = time(index)
    except Exception as error:
        raise NelboError(
            f"time= fails on the timesteps 0 .. {n - 1}: {type(error).__name__}: {error!s:.100}"
        ) from error
    if not isinstance(times, Tensor) or times.shape != (n,):
        raise NelboError(f"time= must return a time for each of the {n} timesteps it is given, got {times!r:.60}")
    return times.detach()
