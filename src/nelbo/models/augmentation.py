r"""Augmentations: transformations of training images that the network is told of, by one code each.

A mirrored or recoloured image is not a draw from the data's distribution. A network that is told what was done to an
image learns one distribution for each code and shares what they have in common; asked about code 0, the identity, it
gives the bound of plain images, so what evaluation measures stays a bound for the data themselves.

``AUGMENTATIONS`` is the table of them all; a new one is one entry. Codes are drawn uniformly and independently, and
the transformations are applied in the order in which they are named.

References:
    Distribution Augmentation for Generative Modeling (Jun et al., 2020). ICML.
    Variational Diffusion Models (Kingma et al., 2021), "Experiments". https://arxiv.org/abs/2107.00630
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

_ORDERS = list(permutations(range(3)))  # The first is the identity.


@dataclass(frozen=True)
class Augmentation:
    """A family of transformations of images.

    Attributes:
        n_codes: How many there are, the identity included.
        transform: Returns images (..., c, h, w) under the transformation of one code; code 0 is the identity.
        n_channels: How many channels the images must have; None for any number.
        is_for_squares: Whether the images must be square.
    """

    n_codes: int
    transform: Callable[[Tensor, int], Tensor]
    n_channels: int | None = None
    is_for_squares: bool = False


AUGMENTATIONS: dict[str, Augmentation] = {
    "flip": Augmentation(2, lambda images, code: images.flip(-1) if code else images),
    "rotation": Augmentation(4, lambda images, code: images.rot90(code, (-2, -1)), is_for_squares=True),
    "channels": Augmentation(6, lambda images, code: images[..., _ORDERS[code], :, :], n_channels=3),
}


def misfit(names: Sequence[str], image_shape: tuple[int, int, int]) -> str | None:
    """Returns why these augmentations cannot be applied to images of a shape, or None if they can."""
    channels, height, width = image_shape
    for name in names:
        if AUGMENTATIONS[name].is_for_squares and height != width:
            return f"the augmentation {name!r} needs square images, and these are {width}x{height}"
        if AUGMENTATIONS[name].n_channels not in (None, channels):
            return (
                f"the augmentation {name!r} needs {AUGMENTATIONS[name].n_channels} channels, and these have {channels}"
            )
    if len(set(names)) < len(names):
        return f"an augmentation is named twice among {', '.join(names)}"
    return None


def augmented(
    images: UInt8[Tensor, "b c h w"], names: Sequence[str], codes: Int64[Tensor, "b k"]
) -> UInt8[Tensor, "b c h w"]:
    """Returns images under the transformations that their codes stand for.

    Args:
        images: Images as they are.
        names: Which augmentations, in order.
        codes: One code of each augmentation for each image.
    """
    for which, name in enumerate(names):
        transform = AUGMENTATIONS[name].transform
        images = torch.stack([transform(image, int(code)) for image, code in zip(images, codes[:, which], strict=True)])
    return images
