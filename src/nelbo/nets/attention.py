"""Self-attention over the positions of an image, as a residual block."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from nelbo.nets.layers import group_norm, zero_init


class SelfAttention(nn.Module):
    """Group norm, queries, keys and values by 1x1 convolution, attention over all positions; added to the input.

    Args:
        n_channels: Channels in and out.
        n_heads: Attention heads; must divide the channels.
    """

    def __init__(self, n_channels: int, n_heads: int = 1) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = group_norm(n_channels)
        self.qkv = nn.Conv2d(n_channels, 3 * n_channels, 1)
        self.proj_out = zero_init(nn.Conv2d(n_channels, n_channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Returns the block's output."""
        features = self.qkv(self.norm(x))
        if features.requires_grad and features.device.type == "cpu":
            features = features.contiguous()  # Away from the fused attention, whose backward pass is slow there.
        heads = features.flatten(2).unflatten(1, (3, self.n_heads, -1))
        q, k, v = heads.transpose(-1, -2).unbind(1)
        attended = scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(attended.transpose(-1, -2).reshape(x.shape))
