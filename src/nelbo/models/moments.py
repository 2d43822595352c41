"""The mean and the spectrum of a model's images: gathered from a data set, kept beside its weights."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from nelbo.data.arrays import from_array
from nelbo.data.images import Images
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.gaussian_entry import ImageMoments
from nelbo.errors import NelboError
from nelbo.runtime.atomic import new_file
from nelbo.runtime.randomness import permutation
from nelbo.runtime.tensor_file import read_tensors

MOMENTS = "moments.safetensors"
FORMAT = "nelbo image moments 1"
_BATCH = 256


def image_moments(data: Images | torch.Tensor, n_images: int = 10_000) -> ImageMoments:
    """Returns the moments of a data set, of at most so many images of it, chosen at random.

    Assign them to ``model.image_moments``, and samplers start with a Gaussian of that mean and spectrum. No network is
    called.

    Args:
        data: The images: training images.
        n_images: How many images are read at most.

    Raises:
        NelboError: If there are no images.
    """
    data = data if isinstance(data, Images) else from_array(data)
    if len(data) == 0 or n_images < 1:
        raise NelboError("the mean and the spectrum of no images were asked for: give at least one image")
    chosen = sorted(permutation(len(data), "images of the moments", 0)[:n_images].tolist())
    parts = [chosen[start : start + _BATCH] for start in range(0, len(chosen), _BATCH)]
    first, *others = (ImageMoments.of(to_unit(data.read(part))) for part in parts)
    return sum(others, first)


def save_moments(moments: ImageMoments, path: Path) -> None:
    """Writes moments, whole or not at all, in float32."""
    parts = {"total": moments.total, "products": moments.products}
    tensors = {name: tensor.float().contiguous() for name, tensor in parts.items()}
    tensors["n_blocks"] = torch.tensor(
        moments.n_blocks
    )  # Not in the header: safetensors writes its entries in any order.
    with new_file(path) as temporary:
        save_file(tensors, temporary, {"format": FORMAT})


def load_moments(path: Path) -> ImageMoments:
    """Reads moments.

    Raises:
        NelboError: If the file is missing, damaged or something else.
    """
    header, tensors = read_tensors(path, "{path} is damaged or holds no image moments ({error})")
    total, products = tensors.get("total"), tensors.get("products")
    if header.get("format") != FORMAT or total is None or products is None:
        raise NelboError(f"{path} holds no image moments of this version of nelbo: remove it, or copy it again")
    counted = tensors.get("n_blocks")
    try:
        n_blocks = int(header["n_blocks"] if counted is None else counted)  # The first such files had it in the header.
    except (KeyError, ValueError, RuntimeError):
        n_blocks = 0
    c = total.shape[0] if total.ndim == 3 else 0
    is_whole = bool(torch.isfinite(total).all() and torch.isfinite(products).all())
    if n_blocks < 1 or not c or products.shape != (c, *total.shape) or not is_whole:
        raise NelboError(f"{path} is damaged: its tensors do not fit together; remove it, or copy it again")
    return ImageMoments(n_blocks, total.double(), products.double())
