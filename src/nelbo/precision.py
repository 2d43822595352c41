"""Which arithmetic a network runs in: float32, or bfloat16 autocast where that is faster."""

from contextlib import AbstractContextManager
from typing import Literal, get_args

import torch
from torch import nn

from nelbo.errors import NelboError

Precision = Literal["float32", "bfloat16"]


def fastest_precision(device: torch.device) -> Precision:
    """Returns bfloat16 where the device computes in it, else float32.

    A CPU without bfloat16 instructions emulates it at a loss.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
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
    """Lays the weights of a module out in the order that its precision is fastest in on a device, in place.

    That is channels last for bfloat16 on CUDA. On a CPU it never is: convolutions gain little, and the backward pass of
    a group norm is several times slower (docs/log.md).
    """
    is_last = device.type == "cuda" and precision == "bfloat16"
    memory_format = torch.channels_last if is_last else torch.contiguous_format
    module.to(device).to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Returns the context in which networks run in the given precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _cpu_has_bfloat16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
