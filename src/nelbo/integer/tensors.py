"""The tensors of a network by name: those of one operation, and checks of what a file brings."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from nelbo.errors import NelboError

Tensors = dict[str, Tensor]
T = TypeVar("T")


def by_owner(named: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Returns what is named ``<owner>.<name>`` by owners, then by its own names."""
    result: dict[str, dict[str, T]] = {}
    for name, value in named.items():
        owner, _, own = name.partition(".")
        result.setdefault(owner, {})[own] = value
    return result


def tensor_of(weights: Mapping[str, Tensor], name: str, dtype: torch.dtype, shape: Sequence[int | None]) -> Tensor:
    """Returns a tensor of an operation.

    Args:
        weights: The tensors.
        name: Its name.
        dtype: Its type.
        shape: Its shape, None where any length will do.

    Raises:
        NelboError: If it is missing, or has another type or shape.
    """
    if name not in weights:
        raise NelboError(f"the tensor {name!r} is missing")
    tensor = weights[name]
    fits = len(tensor.shape) == len(shape) and all(n in (None, m) for n, m in zip(shape, tensor.shape, strict=True))
    if tensor.dtype != dtype or not fits or tensor.numel() == 0:
        wanted = " x ".join("n" if n is None else str(n) for n in shape)
        given = " x ".join(map(str, tensor.shape))
        raise NelboError(f"the tensor {name!r} is {given} of {tensor.dtype}, not {wanted} of {dtype}")
    return tensor
