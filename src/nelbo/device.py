"""Where to compute."""

import torch

from nelbo.errors import NelboError


def choose_device(name: str, index: int = 0) -> torch.device:
    """Returns the device that a name stands for; ``auto`` takes CUDA where there is one, else the CPU.

    Args:
        name: ``auto``, ``cpu`` or ``cuda``.
        index: Which CUDA device.

    Raises:
        NelboError: If CUDA is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise NelboError("--device cuda: this PyTorch sees no CUDA device; use --device cpu")
    return torch.device(name, index) if name == "cuda" else torch.device(name)
