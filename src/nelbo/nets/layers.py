"""The layers that every U-Net here is made of: the norm, the embedding of gamma, the residual block."""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from nelbo.nets.fourier import sinusoidal_embedding
from nelbo.nets.norm import GroupNorm

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def group_norm(n_channels: int) -> GroupNorm:
    """Returns a group norm of 32 groups, or of the most that divide both 32 and the channels."""
    return GroupNorm(math.gcd(32, n_channels), n_channels, eps=1e-6)


def zero_init(layer: Layer) -> Layer:
    """Returns the layer with zero weights and bias, so that its residual branch starts as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class GammaEmbedding(nn.Module):
    """Two layers over a sinusoidal embedding of gamma scaled to [0, 1]; the ``cond`` of every residual block.

    Args:
        n_frequencies: Size of the sinusoidal embedding.
        n_features: Size of the result.
        gamma_range: The gammas that map to 0 and 1.
        n_constant: Constant zero inputs after the embedding (the official network's unused conditioning).
    """

    def __init__(
        self, n_frequencies: int, n_features: int, gamma_range: tuple[float, float], n_constant: int = 0
    ) -> None:
        super().__init__()
        self.n_frequencies, self.n_constant = n_frequencies, n_constant
        self.gamma_range = gamma_range
        self.dense0 = nn.Linear(n_frequencies + n_constant, n_features)
        self.dense1 = nn.Linear(n_features, n_features)

    def forward(
        self, gamma: Float[Tensor, " b"], condition: Float[Tensor, "b f"] | None = None
    ) -> Float[Tensor, "b f"]:
        """Returns the embedding of each gamma, with that of another condition added before the last SiLU."""
        low, high = self.gamma_range
        features = sinusoidal_embedding((gamma - low) / (high - low), self.n_frequencies)
        features = self.dense1(silu(self.dense0(pad(features, (0, self.n_constant)))))
        return silu(features if condition is None else features + condition)


class ConditionEmbedding(nn.Module):
    """What a network is conditioned on besides the noise level: its class, and how it was transformed.

    Each is a table with one row of features for each value; they are added up. All rows begin at zero, so that the
    network starts out as if it were not conditioned. Without classes and codes there are no parameters.

    Args:
        n_features: Size of the embedding.
        n_classes: Classes of the images, 0 for none.
        n_codes: How many values each code of a transformation takes; value 0 is the image as it is.

    References:
        Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol, 2021). https://arxiv.org/abs/2105.05233
        Distribution Augmentation for Generative Modeling (Jun et al., 2020). ICML.
    """

    def __init__(self, n_features: int, n_classes: int = 0, n_codes: Sequence[int] = ()) -> None:
        super().__init__()
        self.classes = _table(n_classes, n_features) if n_classes else None
        self.codes = nn.ModuleList(_table(n, n_features) for n in n_codes)

    def forward(
        self, labels: Int64[Tensor, " b"] | None, codes: Int64[Tensor, "b k"] | None, n_images: int
    ) -> Float[Tensor, "b f"] | None:
        """Returns the embedding of each image, or None where there is nothing to tell.

        Args:
            labels: The class of each image; needed where there are classes.
            codes: One code of each transformation for each image; None for images as they are.
            n_images: How many images there are.
        """
        parts = [] if self.classes is None or labels is None else [self.classes(labels)]
        if codes is None:
            device = next((p.device for p in self.parameters()), None)
            codes = torch.zeros(n_images, len(self.codes), dtype=torch.int64, device=device)
        parts += [table(codes[:, which]) for which, table in enumerate(self.codes)]
        return torch.stack(parts).sum(0) if parts else None


def _table(n_rows: int, n_features: int) -> nn.Embedding:
    table = nn.Embedding(n_rows, n_features)
    nn.init.zeros_(table.weight)
    return table


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution; conditioned norm, SiLU, dropout, 3x3 convolution; added to the input.

    Args:
        n_in: Channels in.
        n_out: Channels out.
        n_cond: Size of the conditioning embedding.
        dropout: Probability of dropping a feature before the second convolution.
        modulated: How the embedding enters: as a scale and a shift after the second norm, or as the paper has it,
            as a shift before it.
    """

    def __init__(self, n_in: int, n_out: int, n_cond: int, dropout: float, modulated: bool = False) -> None:
        super().__init__()
        self.modulated = modulated
        self.norm1 = group_norm(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.cond_proj = zero_init(nn.Linear(n_cond, 2 * n_out if modulated else n_out, bias=False))
        self.norm2 = group_norm(n_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(n_out, n_out, 3, padding=1))
        self.shortcut = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Float[Tensor, "b i h w"], cond: Float[Tensor, "b f"]) -> Float[Tensor, "b o h w"]:
        """Returns the block's output at the input's resolution."""
        h, condition = self.conv1(self.norm1(x, activate=True)), self.cond_proj(cond)
        if self.modulated:
            scale, shift = condition.chunk(2, dim=1)
            h = self.norm2(h, (scale, shift), activate=True)
        else:
            h = self.norm2(h + condition[:, :, None, None], activate=True)
        return self.shortcut(x) + self.conv2(self.dropout(h))
