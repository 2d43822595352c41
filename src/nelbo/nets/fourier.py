r"""Fourier features: the phase of each input at the scale of a grey level, so that a network can see the lowest bits.

A latent at low noise differs from its neighbours by fractions of :math:`2/256`, which a network fed with z alone learns
to see very slowly. The features :math:`\sin(2^n \pi z), \cos(2^n \pi z)` make it plain: n = 8 has a period of exactly
one grey level, n = 7 of two.

References:
    Variational Diffusion Models (Kingma et al., 2021), appendix C. https://arxiv.org/abs/2107.00630
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle


def fourier_features(z: Float[Tensor, "b c h w"], exponents: Sequence[int]) -> Float[Tensor, "b k h w"]:
    """Returns z and its features, shape (b, c (1 + 2 len(exponents)), h, w), always in float32.

    Channels are z, then all sines, then all cosines; within these, the exponents of one channel stand together.

    Args:
        z: Latents. In bfloat16 the phase would be noise, so they are promoted first.
        exponents: The n of each frequency.
    """
    z = z.float()
    if not exponents:
        return z
    frequencies = torch.tensor([2.0**n * math.pi for n in exponents], device=z.device)
    phases = (z[:, :, None] * frequencies[:, None, None]).flatten(1, 2)
    return torch.cat([z, phases.sin(), phases.cos()], dim=1)


class Stem(nn.Conv2d):
    """The first layer: a 3x3 convolution over a latent and its Fourier features, in float32 whatever the autocast.

    bfloat16 keeps 8 bits of a latent, and at low noise the bound is about the bits below: with this layer in bfloat16
    too, a half-trained network's bound was 0.018 bpd worse, with all the others in it 0.0005 (docs/log.md).

    Args:
        n_image_channels: Channels of the image.
        n_channels: Channels out.
        fourier: Exponents n of the Fourier features, empty for none.
        patch: Side of the patches of pixels that are folded into channels (space to depth).
    """

    def __init__(self, n_image_channels: int, n_channels: int, fourier: Sequence[int], patch: int = 1) -> None:
        super().__init__(n_image_channels * (1 + 2 * len(fourier)) * patch**2, n_channels, 3, padding=1)
        self.fourier, self.patch = tuple(fourier), patch

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k ph pw"]:
        """Returns the features of a latent, in the precision that the layers after it run in.

        On a CPU in bfloat16 they come channels last, and so do those of the layers after it: convolutions in it are
        faster in that order, and :class:`~nelbo.nets.norm.GroupNorm` is made for it.
        """
        device = input.device.type
        is_mixed = torch.is_autocast_enabled(device)
        is_last = is_mixed and device == "cpu" and not torch.compiler.is_compiling()
        with torch.autocast(device, enabled=False):
            pixels = fourier_features(input, self.fourier)
            pixels = pixel_unshuffle(pixels, self.patch) if self.patch > 1 else pixels
            features = super().forward(pixels.contiguous(memory_format=torch.channels_last) if is_last else pixels)
        return features.to(torch.get_autocast_dtype(device)) if is_mixed else features


def sinusoidal_embedding(t: Float[Tensor, " b"], n_features: int) -> Float[Tensor, "b n"]:
    r"""Returns the sines and cosines of 1000 t at ``n_features / 2`` frequencies from 1 down to 1/10000, in float32.

    Args:
        t: A time, or any scalar scaled to [0, 1], per image.
        n_features: Size of the embedding, even and at least 4.
    """
    half = n_features // 2
    rates = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000) / (half - 1)))
    angles = 1000 * t.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
