"""What a model is, in 64 letters: tables and schedules carry it, so that they are not used with another model."""

import hashlib

import torch

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
