"""The U-Net of Nichol & Dhariwal (2021), under the parameter names of OpenAI's improved- and guided-diffusion.

A layer here stands where theirs stands, so that their checkpoints, plain state dicts, fill it as they are: a block is a
sequence of a residual block, perhaps attention, perhaps a change of resolution. Unlike our own networks it reads the
timestep instead of gamma, and every feature of the way down is passed to the way up. guided-diffusion (2021b) adds
residual blocks that change the resolution, heads of a given width, and another order of a head's channels.

References:
    Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), appendix A.
    https://arxiv.org/abs/2102.09672
    Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol, 2021b). https://arxiv.org/abs/2105.05233
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, scaled_dot_product_attention

from nelbo.errors import NelboError
from nelbo.nets.fourier import Stem
from nelbo.nets.norm import GroupNorm

N_GROUPS = 32
SLOWEST = 10_000  # The longest period of the timestep's embedding, over 2 pi.


@dataclass(frozen=True)
class Heads:
    """The attention heads of a network, which its weights do not show.

    Attributes:
        down: Heads on the way down and in the middle.
        up: Heads on the way up.
        width: Channels of a head, in place of both numbers; None for these.
        are_inner: Whether queries, keys and values each hold all heads (guided-diffusion's new order), instead of each
            head its own queries, keys and values.
    """

    down: int
    up: int
    width: int | None = None
    are_inner: bool = False

    def of(self, n_channels: int, way: Literal["down", "up"]) -> int:
        """Returns the number of heads of a layer."""
        n = (self.down if way == "down" else self.up) if self.width is None else n_channels // self.width
        if n < 1 or n_channels % n or (self.width is not None and n * self.width != n_channels):
            given = f"{self.down} and {self.up}" if self.width is None else f"of {self.width} channels"
            raise NelboError(f"the heads {given} must divide the {n_channels} channels")
        return n


class UNetImproved(nn.Module):
    """The network of improved-diffusion.

    Args:
        n_image_channels: Channels of the image.
        n_outputs: Channels of the output: those of the image, or twice as many with learned variances.
        n_channels: Channels of the first layer.
        multipliers: Channels of each resolution as multiples of it, finest first.
        n_blocks: Residual blocks of each resolution on the way down; there is one more on the way up.
        attention: The resolutions with attention, as divisors of the finest.
        heads: Its attention heads.
        n_classes: Classes it is conditioned on; 0 for none.
        modulated: Whether the embedding scales and shifts the second norm of each block; otherwise it is added.
        time_scale: What timesteps are multiplied by.
        resampling_blocks: Whether residual blocks change the resolution (their ``resblock_updown``).

    Raises:
        NelboError: If the norm's groups do not divide the channels, or the heads do not.
    """

    def __init__(
        self,
        n_image_channels: int,
        n_outputs: int,
        n_channels: int,
        multipliers: Sequence[int],
        n_blocks: int,
        attention: Sequence[int],
        heads: Heads,
        n_classes: int,
        modulated: bool,
        time_scale: float,
        resampling_blocks: bool = False,
    ) -> None:
        super().__init__()
        if n_channels < 1 or n_channels % N_GROUPS:
            raise NelboError(f"the channels must be a multiple of the norm's {N_GROUPS} groups, got {n_channels}")
        self.n_channels, self.time_scale = n_channels, time_scale
        n_cond = 4 * n_channels
        self.time_embed = nn.Sequential(nn.Linear(n_channels, n_cond), nn.SiLU(), nn.Linear(n_cond, n_cond))
        if n_classes:
            self.label_emb = nn.Embedding(n_classes, n_cond)
        widths = [n_channels * multiplier for multiplier in multipliers]

        def block(n_in: int, level: int, way: Literal["down", "up"]) -> list[nn.Module]:
            residual, width = Residual(n_in, widths[level], n_cond, modulated), widths[level]
            return [residual, Attention(width, heads, way)] if 2**level in attention else [residual]

        def resampled(width: int, to: Literal["half", "double"]) -> nn.Module:
            if resampling_blocks:
                return Residual(width, width, n_cond, modulated, to)
            return Shrink(width) if to == "half" else Grow(width)

        down: list[list[nn.Module]] = [[Stem(n_image_channels, n_channels, fourier=())]]
        skips, n_in = [n_channels], n_channels
        for level, width in enumerate(widths):
            for _ in range(n_blocks):
                down.append(block(n_in, level, "down"))
                n_in = width
                skips.append(width)
            if level < len(widths) - 1:
                down.append([resampled(width, "half")])
                skips.append(width)
        ends = [Residual(n_in, n_in, n_cond, modulated) for _ in range(2)]
        middle = [ends[0], Attention(n_in, heads, "down"), ends[1]]
        up: list[list[nn.Module]] = []
        for level, width in reversed(list(enumerate(widths))):
            for i in range(n_blocks + 1):
                grow = [resampled(width, "double")] if level and i == n_blocks else []
                up.append([*block(n_in + skips.pop(), level, "up"), *grow])
                n_in = width
        self.input_blocks = nn.ModuleList(nn.ModuleList(layers) for layers in down)
        self.middle_block = nn.ModuleList(middle)
        self.output_blocks = nn.ModuleList(nn.ModuleList(layers) for layers in up)
        self.out = nn.Sequential(_norm(n_in), nn.SiLU(), nn.Conv2d(n_in, n_outputs, 3, padding=1))
        self.stride = 2 ** (len(widths) - 1)

    def forward(
        self, z: Float[Tensor, "b c h w"], t: Int[Tensor, " b"], labels: Int[Tensor, " b"] | None
    ) -> Float[Tensor, "b o h w"]:
        """Returns the network's output at each latent.

        Raises:
            NelboError: If the latents' sides are no multiples of the coarsest resolution's stride.
        """
        if z.shape[-1] % self.stride or z.shape[-2] % self.stride:
            raise NelboError(f"image sides must be multiples of {self.stride}, got {tuple(z.shape[-2:])}")
        cond = self.time_embed(timestep_embedding(t * self.time_scale, self.n_channels))
        if labels is not None:
            cond = cond + self.label_emb(labels)
        h, skips = z, []
        for layers in self.input_blocks:
            h = _through(layers, h, cond)
            skips.append(h)
        h = _through(self.middle_block, h, cond)
        for layers in self.output_blocks:
            h = _through(layers, torch.cat([h, skips.pop()], dim=1), cond)
        return self.out(h.float())


class Residual(nn.Module):
    """Norm, SiLU, convolution; the embedding; norm, SiLU, convolution; added to the input.

    One that changes the resolution does so before its first convolution, and to its input.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_cond: int,
        modulated: bool,
        resolution: Literal["same", "half", "double"] = "same",
    ) -> None:
        super().__init__()
        self.modulated, self.resolution = modulated, resolution
        self.in_layers = nn.Sequential(_norm(n_in), nn.SiLU(), nn.Conv2d(n_in, n_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(n_cond, 2 * n_out if modulated else n_out))
        conv = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.out_layers = nn.Sequential(_norm(n_out), nn.SiLU(), nn.Identity(), conv)  # Theirs has dropout third.
        self.skip_connection = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Float[Tensor, "b i h w"], cond: Float[Tensor, "b f"]) -> Float[Tensor, "b o h2 w2"]:
        """Returns the block's output at its resolution."""
        h, x = self.in_layers[2](resized(self.in_layers[:2](x), self.resolution)), resized(x, self.resolution)
        condition = self.emb_layers(cond)[:, :, None, None]
        if not self.modulated:
            return self.skip_connection(x) + self.out_layers(h + condition)
        scale, shift = condition.chunk(2, dim=1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[1:](h)


def resized(x: Float[Tensor, "b c h w"], to: str) -> Float[Tensor, "b c h2 w2"]:
    """Returns features at the same resolution, at half of it (averages) or at twice (repeated pixels)."""
    if to == "same":
        return x
    return avg_pool2d(x, 2) if to == "half" else interpolate(x, scale_factor=2, mode="nearest")


class Attention(nn.Module):
    """Norm and attention over all positions, added to the input."""

    def __init__(self, n_channels: int, heads: Heads, way: Literal["down", "up"]) -> None:
        super().__init__()
        self.n_heads, self.are_inner = heads.of(n_channels, way), heads.are_inner
        self.norm = _norm(n_channels)
        self.qkv = nn.Conv1d(n_channels, 3 * n_channels, 1)
        self.proj_out = nn.Conv1d(n_channels, n_channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Returns the block's output."""
        flat = x.flatten(2)
        order = (3, self.n_heads, -1) if self.are_inner else (self.n_heads, 3, -1)
        heads = self.qkv(self.norm(flat)).unflatten(1, order).transpose(-1, -2)
        q, k, v = heads.unbind(1 if self.are_inner else 2)
        attended = scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(flat.shape)
        return (flat + self.proj_out(attended)).reshape(x.shape)


class Shrink(nn.Module):
    """Halves the resolution by a strided convolution."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(n_channels, n_channels, 3, stride=2, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Returns the features at half the resolution."""
        return self.op(x)


class Grow(nn.Module):
    """Doubles the resolution by repeating pixels, then convolves."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_channels, n_channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Returns the features at twice the resolution."""
        return self.conv(interpolate(x, scale_factor=2, mode="nearest"))


def timestep_embedding(t: Float[Tensor, " b"], n_features: int) -> Float[Tensor, "b {n_features}"]:
    r"""Returns :math:`\cos(t \omega_i), \sin(t \omega_i)` with :math:`\omega_i = 10^{-4 i / n}`, n pairs."""
    n = n_features // 2
    frequencies = torch.exp(-math.log(SLOWEST) / n * torch.arange(n, device=t.device))
    angles = t[:, None].float() * frequencies
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


def _through(layers: nn.Module, h: Tensor, cond: Tensor) -> Tensor:
    for layer in layers.children():
        h = layer(h, cond) if isinstance(layer, Residual) else layer(h)
    return h


def _norm(n_channels: int) -> GroupNorm:
    return GroupNorm(N_GROUPS, n_channels)
