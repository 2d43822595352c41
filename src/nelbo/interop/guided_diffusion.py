"""Checkpoints of OpenAI's guided-diffusion: those of improved-diffusion with three things more.

Residual blocks may change the resolution, which the weights tell; attention may count its heads by their width, and
order the channels of a head otherwise, which they do not. Timesteps are not rescaled by default.

References:
    Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol, 2021). https://github.com/openai/guided-diffusion
"""

from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from nelbo.interop.improved_diffusion import Given, ImprovedDiffusionConfig, fields_of, write_imported
from nelbo.interop.improved_diffusion_topology import Weights, has_resampling_blocks
from nelbo.interop.improved_diffusion_unet import Heads, UNetImproved


class GuidedDiffusionConfig(ImprovedDiffusionConfig):
    """A model of guided-diffusion.

    Attributes:
        type: Tells its folder from those of other models.
        head_channels: Channels of an attention head (their ``num_head_channels``); None for a number of heads.
        new_attention_order: Whether queries, keys and values each hold all heads (their ``use_new_attention_order``).
        resblock_updown: Whether residual blocks change the resolution.
    """

    type: Literal["guided_diffusion"] = "guided_diffusion"  # pyright: ignore[reportIncompatibleVariableOverride]
    head_channels: PositiveInt | None = None
    new_attention_order: bool = False
    resblock_updown: bool = False

    def build_net(self) -> UNetImproved:
        """Returns its network at its initialisation."""
        heads = Heads(self.heads, self.heads_up, self.head_channels, self.new_attention_order)
        return self.net_with(heads, self.resblock_updown)


class GuidedGiven(Given):
    """What a checkpoint does not tell, with the defaults of guided-diffusion's scripts.

    Attributes:
        head_channels: ``--num_head_channels``, in place of the number of heads.
        new_attention_order: ``--use_new_attention_order``.
        rescale_timesteps: ``--rescale_timesteps``.
    """

    head_channels: int | None = None
    new_attention_order: bool = False
    rescale_timesteps: bool = False


def import_guided_diffusion(checkpoint: Path, out: Path, given: GuidedGiven) -> None:
    """Turns a checkpoint of guided-diffusion into a model folder.

    Args:
        checkpoint: The ``.pt`` file, best that of the averaged weights (``ema_0.9999_*.pt``).
        out: The model folder to write, replacing what was there.
        given: What the checkpoint does not tell.

    Raises:
        NelboError: If the file is damaged or no such checkpoint, or what is given does not fit it; nothing is
            written then.
    """

    def config_of(weights: Weights) -> GuidedDiffusionConfig:
        return GuidedDiffusionConfig(
            **fields_of(weights, given),
            head_channels=given.head_channels,
            new_attention_order=given.new_attention_order,
            resblock_updown=has_resampling_blocks(weights),
        )

    write_imported(checkpoint, out, config_of, "guided-diffusion")
