"""A U-Net that down-samples: most of its work at low resolution, for the best bound per FLOP on a small budget."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import conv2d, pixel_shuffle

from nelbo.errors import NelboError
from nelbo.nets.attention import SelfAttention
from nelbo.nets.fourier import Stem
from nelbo.nets.layers import ConditionEmbedding, GammaEmbedding, ResidualBlock, group_norm, zero_init


class Stage(nn.Module):
    """The residual blocks of one resolution, each followed by attention if the stage has heads."""

    def __init__(self, n_channels: int, n_blocks: int, n_heads: int, n_cond: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(n_channels, n_channels, n_cond, dropout, modulated=True) for _ in range(n_blocks)
        )
        self.attentions = nn.ModuleList(
            SelfAttention(n_channels, n_heads) if n_heads else nn.Identity() for _ in range(n_blocks)
        )

    def forward(self, h: Float[Tensor, "b c h w"], cond: Float[Tensor, "b f"]) -> Float[Tensor, "b c h w"]:
        """Returns the features after the last block."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            h = attention(block(h, cond))
        return h


class UNetMultiscale(nn.Module):
    """Stages joined by strided convolutions down and sub-pixel convolutions up, skips added; pixels enter in patches.

    Args:
        n_image_channels: Channels of the image.
        patch: Side of the patches of pixels that the stem folds into channels (space to depth).
        channels: Channels of each stage, finest first.
        n_blocks_down: Residual blocks of each stage on the way down.
        n_blocks_up: Residual blocks of each stage on the way up.
        heads: Attention heads of each stage, 0 for no attention.
        n_cond: Size of the embedding of gamma.
        dropout: Probability of dropping a feature in every residual block.
        fourier: Exponents n of the Fourier features, empty for none.
        gamma_range: The gammas that the time embedding maps to 0 and 1.
        n_classes: Classes of the images, 0 for none.
        n_codes: How many values each code of a transformation takes; see
            :class:`~nelbo.nets.layers.ConditionEmbedding`.

    Raises:
        NelboError: If the stages' settings differ in number, or heads do not divide channels.
    """

    def __init__(
        self,
        n_image_channels: int,
        patch: int,
        channels: Sequence[int],
        n_blocks_down: Sequence[int],
        n_blocks_up: Sequence[int],
        heads: Sequence[int],
        n_cond: int,
        dropout: float,
        fourier: Sequence[int],
        gamma_range: tuple[float, float],
        n_classes: int = 0,
        n_codes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if not len(channels) == len(n_blocks_down) == len(n_blocks_up) == len(heads):
            raise NelboError("channels, n_blocks_down, n_blocks_up and heads need one entry for each stage")
        if any(n and c % n for c, n in zip(channels, heads, strict=True)):
            raise NelboError(f"the heads {tuple(heads)} must divide the channels {tuple(channels)} of their stages")
        self.patch = patch
        self.stride = patch * 2 ** (len(channels) - 1)
        joints = list(pairwise(channels))

        def stages(n_blocks: Sequence[int]) -> nn.ModuleList:
            settings = zip(channels, n_blocks, heads, strict=True)
            return nn.ModuleList(Stage(c, n, n_heads, n_cond, dropout) for c, n, n_heads in settings)

        self.embedding = GammaEmbedding(min(channels), n_cond, gamma_range)
        self.condition = ConditionEmbedding(n_cond, n_classes, n_codes)
        self.conv_in = Stem(n_image_channels, channels[0], fourier, patch)
        self.down = stages(n_blocks_down)
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in joints)
        self.grow = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in joints)
        self.up = stages(n_blocks_up)
        self.norm_out = group_norm(channels[0])
        self.conv_out = zero_init(nn.Conv2d(channels[0], n_image_channels * patch**2, 3, padding=1))

    def forward(
        self,
        z: Float[Tensor, "b c h w"],
        gamma: Float[Tensor, " b"],
        labels: Int64[Tensor, " b"] | None = None,
        codes: Int64[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Returns the network's prediction for each latent, in float32.

        Args:
            z: Latents.
            gamma: Negative log-SNR of each.
            labels: The class of each image, where there are classes.
            codes: How each image was transformed; None for images as they are.

        Raises:
            NelboError: If the latent's sides are no multiples of the coarsest stage's stride.
        """
        if z.shape[-1] % self.stride or z.shape[-2] % self.stride:
            raise NelboError(f"image sides must be multiples of {self.stride}, got {tuple(z.shape[-2:])}")
        cond = self.embedding(gamma, self.condition(labels, codes, len(z)))
        h = self._between(self.conv_in(z), cond, 0)
        output = self.conv_out(self.norm_out(h, activate=True)).float()
        return pixel_shuffle(output, self.patch) if self.patch > 1 else output

    def _between(self, h: Tensor, cond: Tensor, level: int) -> Tensor:
        """Returns the features of one stage after its way down, all coarser stages, and its way up."""
        h = self.down[level](h, cond)
        if level < len(self.shrink):
            coarse = self._between(self.shrink[level](h), cond, level + 1)
            h = h + _grown(self.grow[level], coarse)
        return self.up[level](h, cond)


def _grown(grow: nn.Module, coarse: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o 2*h 2*w"]:
    """Returns the result of a 1x1 convolution, its channels laid out as squares of 2x2 pixels.

    Channels last that is several times faster, backwards above all, if the convolution gives the channels of one pixel
    side by side, so there its rows are sorted.
    """
    assert isinstance(grow, nn.Conv2d)
    assert grow.bias is not None
    if not coarse.is_contiguous(memory_format=torch.channels_last):
        return pixel_shuffle(grow(coarse), 2)
    weight, bias = (p.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1) for p in (grow.weight, grow.bias))
    squares = conv2d(coarse, weight, bias).permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))
    n_images, height, width = squares.shape[:3]
    return squares.transpose(2, 3).reshape(n_images, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)
