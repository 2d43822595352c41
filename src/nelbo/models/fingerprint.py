"""Models and data sets in 64 letters: tables and schedules carry them, and are not used with others."""

import hashlib

import torch
from jaxtyping import Int64
from torch import Tensor

from nelbo.data.images import Images
from nelbo.models.interface import DiffusionModel


def fingerprint(model: DiffusionModel) -> str:
    """Returns the SHA-256 of a model's weights, names, image shape and ``identity``, as hexadecimal digits.

    The identity is empty for models trained by nelbo; of other programs' models it holds what weights do not say.
    """
    digest = hashlib.sha256(repr(tuple(model.image_shape)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    digest.update(model.identity.encode())
    return digest.hexdigest()


def images_digest(data: Images, labels: Int64[Tensor, " n"] | None = None) -> str:
    """Returns the SHA-256 of all images in their order, and of their classes where a model is conditioned on them."""
    digest = hashlib.sha256(repr((len(data), *data.shape)).encode())
    for first in range(0, len(data), 32):
        digest.update(data.read(range(first, min(first + 32, len(data)))).numpy().tobytes())
    if labels is not None:
        digest.update(labels.numpy().tobytes())
    return digest.hexdigest()
