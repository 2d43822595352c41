"""Where to compute, and in which arithmetic: float32, or bfloat16 autocast where that is faster."""

import platform
from contextlib import AbstractContextManager
from typing import Literal, get_args

import torch
from torch import nn

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


Precision = Literal["float32", "bfloat16"]


def fastest_precision(device: torch.device) -> Precision:
    """Returns bfloat16 where the device computes in it, else float32.

    A CPU without bfloat16 instructions emulates it at a loss.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if _cpu_has_bfloat16() else "float32"


def resolve_precision(precision: str, device: torch.device) -> Precision:
    """Returns the precision that a name stands for; ``auto`` is the device's fastest.

    Raises:
        NelboError: If the name is unknown.
    """
    if precision == "auto":
        return fastest_precision(device)
    for known in get_args(Precision):
        if precision == known:
            return known
    raise NelboError(f"precision is auto, float32 or bfloat16, got {precision!r}")


def set_precision(module: nn.Module, device: torch.device, precision: Precision) -> None:
    """Moves a module to a device, its weights in the order that the precision is fastest in there, in place.

    float32 means float32: convolutions are kept from rounding it to TF32 on CUDA. The order
    is channels last for bfloat16 on CUDA; on a CPU the first layer gives its features that order, and the
    weights, which are small, stay as they are (:class:`~nelbo.nets.fourier.Stem`).
    """
    torch.backends.cudnn.allow_tf32 = False
    is_last = device.type == "cuda" and precision == "bfloat16"
    memory_format = torch.channels_last if is_last else torch.contiguous_format
    module.to(device).to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Returns the context in which networks run in the given precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _cpu_has_bfloat16() -> bool:
    """Returns whether convolutions run in bfloat16 by instructions made for it; oneDNN also emulates them, slowly."""
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, ask, bool)() for ask in asks)
