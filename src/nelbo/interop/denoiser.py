"""A network of continuous noise levels, in whatever coordinate and parametrisation, as a diffusion model."""

from collections.abc import Callable
from numbers import Real
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.diffusion.decoder import DECODERS
from nelbo.diffusion.noise_schedule import Linear
from nelbo.diffusion.reverse import FIXED_KERNELS
from nelbo.errors import NelboError
from nelbo.interop.coordinates import COORDINATES, to_noise
from nelbo.interop.foreign_net import ForeignNet, classes_of, settings_identity
from nelbo.interop.units import Number, Pair, Units, units_of
from nelbo.models.interface import DiffusionModel

PredictionName = Literal["eps", "x", "v", "flow"]
Coordinate = Literal["gamma", "logsnr", "sigma", "t"]


class Denoiser(DiffusionModel):
    """A model of continuous noise levels of another program; :mod:`nelbo.interop.coordinates` has its formulas.

    Args:
        net: The network: (latents in its own units, its coordinate in float32, labels or None) to its output.
        image_shape: Channels, height and width of the images.
        prediction: What its output stands for.
        coordinate: What it is given of the noise level.
        levels: The range of that coordinate.
        units: What it was trained on.
        clip: How far from the middle of its pixel range a denoised image may lie, in half ranges; None for no clipping.
        name: What it is called in schedules and tables, in place of a digest of its networks.
    """

    def __init__(
        self,
        net: ForeignNet,
        image_shape: tuple[int, int, int],
        prediction: PredictionName,
        coordinate: Coordinate,
        levels: tuple[float, float],
        units: Units,
        clip: Number | None,
        name: str | None,
    ) -> None:
        super().__init__()
        self.is_foreign = True
        self.net, self.units, self.clip = net, units, clip
        self.prediction, self.coordinate, self.range = prediction, coordinate, levels
        self.image_shape = image_shape
        ends = COORDINATES[coordinate].to_gamma(torch.tensor(levels, dtype=torch.float64)) - units.gamma_shift
        self.noise_schedule = Linear(ends.min().item(), ends.max().item())
        self.decoder = DECODERS["softmax"]
        self.reverse = FIXED_KERNELS["posterior"]
        self.n_classes = net.classes.n
        self.identity = settings_identity([prediction, coordinate, levels, units.range, clip], net, name)

    def denoise(
        self, z: Float[Tensor, "b c h w"], gamma: Float[Tensor, " b"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        r"""Returns :math:`\hat\epsilon(z; \gamma)`, the noise expected in each latent, in float32.

        Args:
            z: The latents.
            gamma: Their gammas.
            labels: Their classes, of a class-conditional model.

        Raises:
            NelboError: If the model has classes and there are no labels, or the function's output does not fit.
        """
        if self.n_classes and labels is None:
            raise NelboError(f"the model has {self.n_classes} classes: every image needs a label")
        coordinate, theirs = COORDINATES[self.coordinate], gamma.double() + self.units.gamma_shift
        a, b = torch.exp(coordinate.log_a(theirs)), torch.exp(coordinate.log_b(theirs))
        latents = self.units.latents(z, gamma.double(), a, b)
        output = self.net(latents, coordinate.of_gamma(theirs).float(), labels)
        if output.shape != z.shape:
            raise NelboError(f"the function's output has shape {tuple(output.shape)}, expected {tuple(z.shape)}")
        eps_hat = to_noise(self.prediction, output.to(z.dtype), latents, theirs, a, b)
        return self.units.clipped(eps_hat, latents, a, b, self.clip)


def from_denoiser(
    function: Callable[..., Tensor],
    image_shape: tuple[int, int, int],
    prediction: PredictionName = "x",
    coordinate: Coordinate = "sigma",
    range: Pair | None = None,
    *,
    pixel_range: Pair = (-1.0, 1.0),
    clip: Number | None = None,
    n_classes: int = 0,
    null_class: int | None = None,
    guidance: Number | None = None,
    name: str | None = None,
) -> Denoiser:
    r"""Returns a network of continuous noise levels as a model, which evaluation, time schedules and sampling take.

    Images are decoded from the cleanest latent of the range, as those of a VDM are, so the bound is that of the paper.
    Latents reach the function in its own scaling, see :mod:`nelbo.interop.coordinates`; networks that it reaches are
    put into evaluation mode and move with the model.

    Args:
        function: A function of (z, level), or of (z, level, labels) with classes: z are float32 latents, shape
            (b, c, h, w); the level is float32, shape (b,). It returns what ``prediction`` says. A torch module is fine.
        image_shape: Channels, height and width of the images.
        prediction: ``eps``, the noise; ``x``, the image; ``v`` = alpha eps - sigma x; or ``flow`` = eps - x, the
            velocity from data to noise (of a network of x - eps, pass its negative).
        coordinate: What the function is given: ``sigma`` with latents x + sigma eps (EDM, k-diffusion); ``t`` with
            latents (1 - t) x + t eps, the data at t = 0 (flow matching); ``gamma`` = -log SNR or ``logsnr`` with
            latents alpha x + sigma eps, alpha^2 + sigma^2 = 1 (VDM).
        range: The lowest and the highest level that it was trained for; chains stay between them. By default
            (0.002, 80) for sigma, (0.001, 0.999) for t, (-13.3, 5) for gamma, (-5, 13.3) for logsnr.
        pixel_range: What the values 0 and 255 of a pixel are to the network.
        clip: How far from the middle of its pixel range a denoised image may lie, in half ranges; None for no clipping.
        n_classes: Classes it is conditioned on; 0 for none.
        null_class: See :func:`nelbo.from_callable`.
        guidance: See :func:`nelbo.from_callable`.
        name: What the model is called in schedules and tables, in place of a digest of its networks.

    Raises:
        NelboError: If a setting is out of range.

    Example:
        >>> model = from_denoiser(lambda y, sigma: torch.zeros_like(y), (3, 32, 32))
        >>> round(model.noise_schedule.gamma_1.item(), 2)  # 2 log 80, less what our pixels differ by
        8.76
    """
    for value, known, what in (
        (prediction, ("eps", "x", "v", "flow"), "prediction"),
        (coordinate, COORDINATES, "coordinate"),
    ):
        if value not in known:
            raise NelboError(f"from_denoiser: {what} is one of {', '.join(known)}, got {value!r:.60}")
    shape = _checked_shape(image_shape)
    if clip is not None and not (isinstance(clip, Real) and clip > 0):
        raise NelboError(f"from_denoiser: clip is a number above 0 or None, got {clip!r:.60}")
    levels = _checked_range(coordinate, COORDINATES[coordinate].usual if range is None else range)
    net = ForeignNet(function, shape[0], classes_of(n_classes, null_class, guidance))
    return Denoiser(net, shape, prediction, coordinate, levels, units_of(pixel_range), clip, name).eval()


def _checked_range(coordinate: str, levels: Any) -> tuple[float, float]:  # noqa: ANN401
    low, high = COORDINATES[coordinate].domain
    try:
        first, last = (float(level) for level in levels)
    except (TypeError, ValueError):
        raise NelboError(f"from_denoiser: range is a lowest and a highest {coordinate}, got {levels!r:.60}") from None
    if not low < first < last < high:
        within = f" strictly within ({low:g}, {high:g})" if coordinate in ("sigma", "t") else ""
        raise NelboError(f"from_denoiser: range is the lowest and the highest {coordinate}{within}, got {levels!r:.60}")
    return first, last


def _checked_shape(shape: Any) -> tuple[int, int, int]:  # noqa: ANN401
    sides = tuple(shape) if isinstance(shape, tuple | list) else ()
    if len(sides) != 3 or not all(isinstance(side, int) and side > 0 for side in sides) or sides[0] not in (1, 3):
        raise NelboError(f"from_denoiser: image_shape is (channels, height, width), channels 1 or 3, got {shape!r:.60}")
    return sides
