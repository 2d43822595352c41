"""The network of the VDM paper: a U-Net that never changes resolution, exactly as in the official code."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nelbo.nets.attention import SelfAttention
from nelbo.nets.fourier import Stem
from nelbo.nets.layers import ConditionEmbedding, GammaEmbedding, ResidualBlock, group_norm, zero_init


class UNet(nn.Module):
    """Residual blocks down, a middle with attention, one more block up, each up block fed by a skip connection.

    The output adds the input: with its last layer at zero the network starts by predicting eps_hat = z.

    Args:
        n_image_channels: Channels of the image.
        n_channels: Channels of every feature map, a multiple of 32.
        n_blocks: Residual blocks on the way down; there is one more on the way up.
        attention: Whether attention follows every block rather than the middle alone.
        dropout: Probability of dropping a feature in every residual block.
        fourier: Exponents n of the Fourier features, empty for none.
        gamma_range: The gammas that the time embedding maps to 0 and 1.
        n_classes: Classes of the images, 0 for none.
        n_codes: How many values each code of a transformation takes; see
            :class:`~nelbo.nets.layers.ConditionEmbedding`.

    References:
        Variational Diffusion Models (Kingma et al., 2021), appendix B; the official code's ``ScoreUNet``.
    """

    def __init__(
        self,
        n_image_channels: int,
        n_channels: int,
        n_blocks: int,
        attention: bool,
        dropout: float,
        fourier: Sequence[int],
        gamma_range: tuple[float, float],
        n_classes: int = 0,
        n_codes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        n_cond = 4 * n_channels

        def block(n_in: int) -> ResidualBlock:
            return ResidualBlock(n_in, n_channels, n_cond, dropout)

        def attentions(n: int) -> nn.ModuleList:
            return nn.ModuleList(SelfAttention(n_channels) if attention else nn.Identity() for _ in range(n))

        self.embedding = GammaEmbedding(n_channels, n_cond, gamma_range, n_constant=1)
        self.condition = ConditionEmbedding(n_cond, n_classes, n_codes)
        self.conv_in = Stem(n_image_channels, n_channels, fourier)
        self.down = nn.ModuleList(block(n_channels) for _ in range(n_blocks))
        self.down_attention = attentions(n_blocks)
        self.middle_1, self.middle_2 = block(n_channels), block(n_channels)
        self.middle_attention = SelfAttention(n_channels)
        self.up = nn.ModuleList(block(2 * n_channels) for _ in range(n_blocks + 1))
        self.up_attention = attentions(n_blocks + 1)
        self.norm_out = group_norm(n_channels)
        self.conv_out = zero_init(nn.Conv2d(n_channels, n_image_channels, 3, padding=1))

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
        """
        cond = self.embedding(gamma, self.condition(labels, codes, len(z)))
        skips = [self.conv_in(z)]
        for block, attention in zip(self.down, self.down_attention, strict=True):
            skips.append(attention(block(skips[-1], cond)))
        h = self.middle_attention(self.middle_1(skips[-1], cond))
        h = self.middle_2(h, cond)
        for block, attention in zip(self.up, self.up_attention, strict=True):
            h = attention(block(torch.cat([h, skips.pop()], dim=1), cond))
        return self.conv_out(self.norm_out(h, activate=True)).float() + z
