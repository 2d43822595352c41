"""``nelbo import``: turns a checkpoint of another program into a model folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class OfficialVDM:
    """A Flax checkpoint of the VDM paper's code; its averaged weights are taken.

    Attributes:
        checkpoint: The checkpoint file.
        out: The model folder to write.
        size: Height and width of the images, which such a checkpoint does not hold.
        gamma_range: gamma_min and gamma_max of its configuration, which it does not hold either.
        force: Replace the folder if it exists.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]
    size: int = 32
    gamma_range: tuple[float, float] = (-13.3, 5.0)
    force: Annotated[bool, tyro.conf.arg(aliases=["-f"])] = False

    def write(self) -> None:
        """Writes the model folder."""
        from nelbo.interop.official_vdm import import_official_vdm

        import_official_vdm(self.checkpoint, self.out, self.size, self.gamma_range)


@dataclass(frozen=True)
class ImprovedDiffusion:
    """A state dict (.pt) of OpenAI's improved-diffusion; the network is told from its weights, the rest is given.

    Attributes:
        checkpoint: The checkpoint file, best that of the averaged weights.
        out: The model folder to write.
        steps: Its --diffusion_steps.
        schedule: Its --noise_schedule.
        size: Its --image_size.
        heads: Its --num_heads.
        heads_up: Its --num_heads_upsample; the same as heads if left out.
        sigma_small: Its --sigma_small: variances beta tilde in place of beta.
        predict_xstart: Its --predict_xstart: the network predicts the image.
        rescale_timesteps: Its --rescale_timesteps.
        force: Replace the folder if it exists.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]
    steps: int = 1000
    schedule: Literal["linear", "cosine"] = "linear"
    size: int = 64
    heads: int = 4
    heads_up: int | None = None
    sigma_small: bool = False
    predict_xstart: bool = False
    rescale_timesteps: bool = True
    force: Annotated[bool, tyro.conf.arg(aliases=["-f"])] = False

    def write(self) -> None:
        """Writes the model folder."""
        from nelbo.interop.improved_diffusion import Given, import_improved_diffusion

        fields = {name: getattr(self, name) for name in Given.model_fields}
        import_improved_diffusion(self.checkpoint, self.out, Given(**fields))


@dataclass(frozen=True)
class GuidedDiffusion:
    """A state dict (.pt) of OpenAI's guided-diffusion; most of the network is told from its weights.

    Attributes:
        checkpoint: The checkpoint file, best that of the averaged weights.
        out: The model folder to write.
        steps: Its --diffusion_steps.
        schedule: Its --noise_schedule.
        size: Its --image_size.
        heads: Its --num_heads.
        heads_up: Its --num_heads_upsample; the same as heads if left out.
        head_channels: Its --num_head_channels, in place of the number of heads.
        new_attention_order: Its --use_new_attention_order.
        sigma_small: Variances beta tilde in place of beta, of a checkpoint without learned ones.
        predict_xstart: Its --predict_xstart: the network predicts the image.
        rescale_timesteps: Its --rescale_timesteps.
        force: Replace the folder if it exists.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]
    steps: int = 1000
    schedule: Literal["linear", "cosine"] = "linear"
    size: int = 64
    heads: int = 4
    heads_up: int | None = None
    head_channels: int | None = None
    new_attention_order: bool = False
    sigma_small: bool = False
    predict_xstart: bool = False
    rescale_timesteps: bool = False
    force: Annotated[bool, tyro.conf.arg(aliases=["-f"])] = False

    def write(self) -> None:
        """Writes the model folder."""
        from nelbo.interop.guided_diffusion import GuidedGiven, import_guided_diffusion

        fields = {name: getattr(self, name) for name in GuidedGiven.model_fields}
        import_guided_diffusion(self.checkpoint, self.out, GuidedGiven(**fields))


def import_model(
    source: Annotated[
        Annotated[OfficialVDM, tyro.conf.subcommand("official-vdm", prefix_name=False)]
        | Annotated[ImprovedDiffusion, tyro.conf.subcommand("improved-diffusion", prefix_name=False)]
        | Annotated[GuidedDiffusion, tyro.conf.subcommand("guided-diffusion", prefix_name=False)],
        tyro.conf.arg(name=""),
    ],
) -> None:
    """Turns a checkpoint of another program into a model folder.

    Args:
        source: What the checkpoint is.
    """
    from nelbo.errors import NelboError

    if source.out.exists() and not source.force:
        raise NelboError(f"{source.out} exists: choose another folder, or replace it with --force")
    source.write()
    print(f"model: {source.out}")
