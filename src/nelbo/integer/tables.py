"""The tables of a frozen network, in its file: the sine, SiLU and the exponential, as integers.

They are computed by the machine that freezes, and read from the file by all others.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import silu

from nelbo.errors import NelboError
from nelbo.integer.arithmetic import (
    EXP_BITS,
    EXP_LENGTH,
    EXP_VALUE_BITS,
    FEATURE_BITS,
    HIGH_INDEX,
    LOW_INDEX,
    PHASE_BITS,
    SILU_LOW,
    STEM_BITS,
    TABLE_BITS,
    fixed,
)
from nelbo.integer.tensors import Tensors, tensor_of

_RANGES = {  # Length, least and largest entry.
    "sine": (2**PHASE_BITS, -(2**STEM_BITS), 2**STEM_BITS),
    "silu": (HIGH_INDEX - LOW_INDEX + 1, -SILU_LOW, HIGH_INDEX << (FEATURE_BITS - TABLE_BITS)),
    "exp": (EXP_LENGTH + 1, 0, 2**EXP_VALUE_BITS),
}


def make_tables() -> Tensors:
    """Returns the tables by name, as integers."""
    turns = torch.arange(2**PHASE_BITS, dtype=torch.float64) / 2**PHASE_BITS
    x = torch.arange(LOW_INDEX, HIGH_INDEX + 1, dtype=torch.float64) / 2**TABLE_BITS
    fall = torch.exp(-torch.arange(EXP_LENGTH + 1, dtype=torch.float64) / 2**EXP_BITS)
    fall[-1] = 0
    return {
        "sine": fixed(torch.sin(2 * torch.pi * turns), STEM_BITS).int(),
        "silu": fixed(silu(x), FEATURE_BITS).int(),
        "exp": fixed(fall, EXP_VALUE_BITS).int(),
    }


def silu_of(y: Float[Tensor, "*n"], table: Tensor) -> Float[Tensor, "*n"]:
    """Returns SiLU of integers in the table's format, in the format of features."""
    within = table[y.clamp(LOW_INDEX, HIGH_INDEX).long() - LOW_INDEX].double()
    return torch.where(y > HIGH_INDEX, y * 2.0 ** (FEATURE_BITS - TABLE_BITS), within)


def check_tables(tables: Tensors) -> None:
    """Checks tables that came in a file, by their own names.

    Raises:
        NelboError: If one is missing, has another length, or leaves the range of its function.
    """
    for name, (length, low, high) in _RANGES.items():
        table = tensor_of(tables, name, torch.int32, (length,))
        if int(table.min()) < low or int(table.max()) > high:
            raise NelboError(f"the table {name!r} leaves [{low}, {high}]")
    if int(tables["exp"][0]) < 1:  # Attention divides by a sum that holds it.
        raise NelboError("the table 'exp' does not begin with a positive number")


def for_loops(tables: Tensors) -> Tensors:
    """Returns the tables in the types in which compiled loops look them up."""
    return tables | {"silu": tables["silu"].float(), "exp": tables["exp"].double()}
