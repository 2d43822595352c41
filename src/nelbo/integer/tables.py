"""The tables of a frozen network: computed once, when it is frozen, and stored with it."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import silu

from nelbo.codec.exact.formats import (
    EXP_BITS,
    EXP_VALUE_BITS,
    FEATURE_BITS,
    PHASE_BITS,
    STEM_BITS,
    TABLE_BITS,
    TABLE_LOW,
)

LOW_INDEX = TABLE_LOW << TABLE_BITS  # The argument that the first entry of the SiLU table stands for.
SILU_LOW = 1141  # How far SiLU goes below zero, 0.27846 in the format of features.
HIGH_INDEX = -LOW_INDEX  # The last one's; from here on SiLU is the identity, at this precision.
EXP_LENGTH = -TABLE_LOW << EXP_BITS  # Entries of the exponential's table before the last, a zero.


def make_tables() -> dict[str, Tensor]:
    """Returns the tables by name, as integers."""
    turns = torch.arange(2**PHASE_BITS, dtype=torch.float64) / 2**PHASE_BITS
    x = torch.arange(LOW_INDEX, HIGH_INDEX + 1, dtype=torch.float64) / 2**TABLE_BITS
    fall = torch.exp(-torch.arange(EXP_LENGTH + 1, dtype=torch.float64) / 2**EXP_BITS)
    fall[-1] = 0
    return {
        "table.sine": _fixed(torch.sin(2 * torch.pi * turns), STEM_BITS),
        "table.silu": _fixed(silu(x), FEATURE_BITS),
        "table.exp": _fixed(fall, EXP_VALUE_BITS),
    }


def silu_of(y: Float[Tensor, "*n"], table: Tensor) -> Float[Tensor, "*n"]:
    """Returns SiLU of integers in the table's format, in the format of features."""
    within = table[y.clamp(LOW_INDEX, HIGH_INDEX).long() - LOW_INDEX].double()
    return torch.where(y > HIGH_INDEX, y * 2.0 ** (FEATURE_BITS - TABLE_BITS), within)


def _fixed(values: Tensor, bits: int) -> Tensor:
    return (values * 2**bits).round().to(torch.int32)
