"""What a model is made of: the contents of its ``config.json``, checked, and the table that builds each part."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)
from torch import nn

from nelbo.diffusion.learned_schedule import Learned
from nelbo.diffusion.noise_schedule import BetaLinear, Cosine, Linear, MonotoneNetwork, NoiseSchedule, Table
from nelbo.errors import NelboError
from nelbo.models.augmentation import AUGMENTATIONS, misfit
from nelbo.nets.unet import UNet
from nelbo.nets.unet_multiscale import UNetMultiscale

Channels = Annotated[int, Field(ge=4, multiple_of=4)]
Exponent = Annotated[int, Field(ge=0, le=16)]


def _increasing(ends: tuple[float, float]) -> tuple[float, float]:
    if not ends[0] < ends[1]:
        raise ValueError("the two ends must increase")
    return ends


class Frozen(BaseModel):
    """A setting that cannot change and has no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LinearConfig(Frozen):
    """Gamma linear in t."""

    type: Literal["linear"] = "linear"
    gamma_0: float = -13.3
    gamma_1: float = 5.0
    learned: bool = False

    def build(self) -> NoiseSchedule:
        """Returns the schedule."""
        return Linear(self.gamma_0, self.gamma_1, self.learned)


class CosineConfig(Frozen):
    """Alpha a cosine of t."""

    type: Literal["cosine"] = "cosine"
    gamma_0: float = -13.3
    gamma_1: float = 5.0

    def build(self) -> NoiseSchedule:
        """Returns the schedule."""
        return Cosine(self.gamma_0, self.gamma_1)


class BetaLinearConfig(Frozen):
    """The rate of diffusion linear in t."""

    type: Literal["beta_linear"] = "beta_linear"
    gamma_0: float = -13.3
    gamma_1: float = 5.0
    beta_0: float = 0.1
    beta_1: float = 20.0

    def build(self) -> NoiseSchedule:
        """Returns the schedule."""
        return BetaLinear(self.gamma_0, self.gamma_1, self.beta_0, self.beta_1)


class LearnedConfig(Frozen):
    """The paper's monotone network between two ends."""

    type: Literal["learned"] = "learned"
    gamma_0: float = -13.3
    gamma_1: float = 5.0
    n_units: int = Field(default=1024, ge=1)
    learned_ends: bool = True

    def build(self) -> NoiseSchedule:
        """Returns the schedule at its initialisation."""
        return Learned(self.gamma_0, self.gamma_1, self.n_units, self.learned_ends)


class TableConfig(Frozen):
    """Gamma interpolated between given values."""

    type: Literal["table"] = "table"
    gammas: tuple[float, ...]

    def build(self) -> NoiseSchedule:
        """Returns the schedule."""
        return Table(self.gammas)


class MonotoneNetworkConfig(Frozen):
    """The official code's monotone network."""

    type: Literal["monotone_network"] = "monotone_network"
    gamma_0: float = -13.3
    gamma_1: float = 5.0
    n_units: int = Field(default=1024, ge=1)

    def build(self) -> NoiseSchedule:
        """Returns the schedule at its initialisation."""
        return MonotoneNetwork(self.gamma_0, self.gamma_1, self.n_units)


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
NoiseScheduleConfig = Annotated[
    LinearConfig | CosineConfig | BetaLinearConfig | TableConfig | LearnedConfig | MonotoneNetworkConfig,
    Field(discriminator="type"),
]


class ModelConfig(Frozen):
    """A variational diffusion model.

    Attributes:
        image_shape: Channels, height and width of the images.
        net: The network.
        noise_schedule: Gamma as a function of time.
        decoder: p(x | z_0).
        reverse: p(z_s | z_t).
        prediction: What the network's output stands for: the noise ``eps``, the image ``x``, or
            ``v`` = alpha eps - sigma x; see :mod:`nelbo.diffusion.prediction`.
        n_classes: Classes of the images, which the network is told; 0 for a model without classes.
        augment: Transformations of training images that the network is told of; see :mod:`nelbo.models.augmentation`.
    """

    image_shape: tuple[Literal[1, 3], PositiveInt, PositiveInt] = (3, 32, 32)
    net: NetConfig = UNetConfig()
    noise_schedule: NoiseScheduleConfig = LinearConfig()
    decoder: Literal["softmax", "discretised_gaussian"] = "softmax"
    reverse: Literal["posterior"] = "posterior"
    prediction: Literal["eps", "x", "v"] = "eps"
    n_classes: int = Field(default=0, ge=0)
    augment: tuple[Literal["flip", "rotation", "channels"], ...] = ()

    @model_validator(mode="after")
    def _augmentations_fit(self) -> "ModelConfig":
        if problem := misfit(self.augment, self.image_shape):
            raise ValueError(problem)
        return self

    def build_net(self) -> nn.Module:
        """Returns the network at its initialisation, as the images and what it is told of them need it."""
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
