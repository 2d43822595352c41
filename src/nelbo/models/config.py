"""What a model is made of: the contents of its ``config.json``, checked, and the table that builds each part."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)
from torch import nn

from nelbo.diffusion.noise_schedule import Linear
from nelbo.diffusion.reverse import FIXED_KERNELS, Posterior
from nelbo.errors import NelboError
from nelbo.models.augmentation import AUGMENTATIONS, misfit
from nelbo.models.noise_schedule_config import OneNoiseSchedule, settings_of
from nelbo.models.settings import Frozen
from nelbo.nets.unet import UNet
from nelbo.nets.unet_multiscale import UNetMultiscale

Channels = Annotated[int, Field(ge=4, multiple_of=4)]
Exponent = Annotated[int, Field(ge=0, le=16)]


def _known_kernel(name: str) -> str:
    known = [kernel.name for kernel in FIXED_KERNELS.values() if not kernel.needs_range]
    if name not in known:
        raise ValueError(f"no such reverse kernel for a model; there are {', '.join(known)}")
    return name


def _increasing(ends: tuple[float, float]) -> tuple[float, float]:
    if not ends[0] < ends[1]:
        raise ValueError("the two ends must increase")
    return ends


class UNetConfig(Frozen):
    """The paper's U-Net; see :class:`nelbo.nets.unet.UNet`."""

    type: Literal["unet"] = "unet"
    n_channels: int = Field(default=128, ge=32, multiple_of=32)
    n_blocks: int = Field(default=32, ge=1)
    attention: bool = False
    dropout: float = Field(default=0.1, ge=0, lt=1)
    fourier: tuple[Exponent, ...] = (7, 8)
    gamma_range: Annotated[tuple[float, float], AfterValidator(_increasing)] = (-13.3, 5.0)

    def build(self, n_image_channels: int, n_classes: int = 0, n_codes: Sequence[int] = ()) -> nn.Module:
        """Returns the network at its initialisation."""
        return UNet(n_image_channels, **self.model_dump(exclude={"type"}), n_classes=n_classes, n_codes=n_codes)


class UNetMultiscaleConfig(Frozen):
    """The down-sampling U-Net; see :class:`nelbo.nets.unet_multiscale.UNetMultiscale`."""

    type: Literal["unet_multiscale"] = "unet_multiscale"
    patch: int = Field(default=1, ge=1)
    channels: tuple[Channels, ...] = Field(default=(32, 64, 128), min_length=1)
    n_blocks_down: tuple[NonNegativeInt, ...] = (1, 1, 1)
    n_blocks_up: tuple[NonNegativeInt, ...] = (2, 2, 1)
    heads: tuple[NonNegativeInt, ...] = (0, 0, 4)
    n_cond: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    fourier: tuple[Exponent, ...] = (7, 8)
    gamma_range: Annotated[tuple[float, float], AfterValidator(_increasing)] = (-13.3, 5.0)

    def build(self, n_image_channels: int, n_classes: int = 0, n_codes: Sequence[int] = ()) -> nn.Module:
        """Returns the network at its initialisation."""
        return UNetMultiscale(
            n_image_channels, **self.model_dump(exclude={"type"}), n_classes=n_classes, n_codes=n_codes
        )


NetConfig = Annotated[UNetConfig | UNetMultiscaleConfig, Field(discriminator="type")]


class ModelConfig(Frozen):
    """A variational diffusion model.

    Attributes:
        image_shape: Channels, height and width of the images.
        net: The network.
        noise_schedule: Gamma as a function of time; see :mod:`nelbo.models.noise_schedule_config`.
        decoder: p(x | z_0).
        reverse: p(z_s | z_t), a kernel that needs neither an error table nor learned variances.
        prediction: What the network's output stands for: the noise ``eps``, the image ``x``, or
            ``v`` = alpha eps - sigma x; see :mod:`nelbo.diffusion.prediction`.
        n_classes: Classes of the images, which the network is conditioned on; 0 for a model without classes.
        augment: Transformations of training images that the network is conditioned on; see
            :mod:`nelbo.models.augmentation`.
    """

    image_shape: tuple[Literal[1, 3], PositiveInt, PositiveInt] = (3, 32, 32)
    net: NetConfig = UNetConfig()
    noise_schedule: OneNoiseSchedule = settings_of(Linear)()
    decoder: Literal["softmax", "discretised_gaussian"] = "softmax"
    reverse: Annotated[str, AfterValidator(_known_kernel)] = Posterior.name
    prediction: Literal["eps", "x", "v"] = "eps"
    n_classes: int = Field(default=0, ge=0)
    augment: tuple[Literal["flip", "rotation", "channels"], ...] = ()

    @model_validator(mode="after")
    def _augmentations_fit(self) -> "ModelConfig":
        if problem := misfit(self.augment, self.image_shape):
            raise ValueError(problem)
        return self

    def build_net(self) -> nn.Module:
        """Returns the network at its initialisation, as the images and what it is conditioned on need it."""
        n_codes = [AUGMENTATIONS[name].n_codes for name in self.augment]
        return self.net.build(self.image_shape[0], self.n_classes, n_codes)


def parse_model_config(text: str, source: str) -> ModelConfig:
    """Returns the configuration that JSON text holds.

    Raises:
        NelboError: If it is no JSON or not a model's configuration; the message names ``source`` and the field.
    """
    try:
        return ModelConfig.model_validate_json(text)
    except ValidationError as error:
        raise NelboError(f"{source}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """Returns the first problem of a failed validation in one line: field, what is wrong, what was given."""
    problem = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in problem["loc"]) or "the whole"
    return f"{field}: {problem['msg']} (got {problem.get('input')!r:.80})"
