"""Where to compute."""

import torch

from nelbo.errors import NelboError


def choose_device(name: str, index: int = 0) -> torch.device:
    """Returns the device that a name stands for; ``auto`` takes CUDA where there is one, else the CPU.

    Args:
        name: ``auto``, ``cpu`` or ``cuda``.
        index: Which CUDA device.

    Raises:
        NelboError: If CUDA is asked for and there is none, or no device of that index.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise NelboError("--device cuda: this PyTorch sees no CUDA device; use --device cpu")
    if name != "cuda":
        return torch.device(name)
    n_devices = torch.cuda.device_count()
    if index >= n_devices:
        raise NelboError(
            f"process {index} of this machine has no CUDA device of its own, this PyTorch sees {n_devices}: "
            f"start no more processes than that (torchrun --nproc-per-node {n_devices}), or use --device cpu"
        )
    return torch.device(name, index)
