r"""What a network needs of one gamma, in exact arithmetic: the conditioning of its norms, alpha and sigma.

Nothing here calls libm. Gamma is scaled by IEEE operations and rounded to an integer time; angles are integers in
turns, their sines come from the table; the layers are integer sums. :math:`\alpha` and :math:`\sigma` come from the
decimal module, whose exponential and square root are correctly rounded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.errors import NelboError
from nelbo.integer.arithmetic import COEFFICIENT_BITS, PHASE_BITS, RATE_BITS, TIME_BITS, silu_of
from nelbo.integer.program import Embedding
from nelbo.runtime.decimals import exact_decimals

_DIGITS = 50
_FURTHEST_TIME = 8  # Gammas this many ranges away are refused: the angles' products stay within 63 bits.


@dataclass(frozen=True)
class Level:
    """One gamma.

    Attributes:
        gamma: Its value.
        alpha: The signal's scale in units of 2^-24.
        sigma: The noise's scale, likewise.
        conditions: For each conditioned norm, by position, its conditioning as integers in float64.
    """

    gamma: float
    alpha: int
    sigma: int
    conditions: Mapping[int, Float[Tensor, " c"]]


def make_level(embedding: Embedding, tensors: Mapping[str, Tensor], gamma: float) -> Level:
    """Returns the level of any gamma, the same on every machine.

    Raises:
        NelboError: If gamma is not finite, or far outside the range that the network was made for.
    """
    features = _sinusoids(_time(embedding, gamma), tensors)
    for i in range(2):
        features = _layer(f"embedding.dense{i}", tensors, features, embedding.shifts[i], embedding.limits[i])
        features = silu_of(features, tensors["table.silu"])
    conditions = {
        position: _layer(f"{position}.condition", tensors, features, shift, embedding.condition_limits[position])
        for position, shift in embedding.condition_shifts.items()
    }
    return Level(gamma, fixed_alpha(gamma), fixed_alpha(-gamma), conditions)


def exact_alpha(gamma: float) -> Decimal:
    r"""Returns :math:`\alpha = (1 + e^\gamma)^{-1/2}` to 49 digits, the same everywhere; sigma is that of -gamma.

    Example:
        >>> exact_alpha(0.0) ** 2 - Decimal("0.5") < Decimal("1e-48")
        True
    """
    with exact_decimals(_DIGITS):
        return 1 / (1 + Decimal(gamma).exp()).sqrt()


def fixed_alpha(gamma: float) -> int:
    """Returns alpha in units of 2^-24, at least 1; sigma is that of -gamma."""
    with exact_decimals(_DIGITS):
        return max(1, int((exact_alpha(gamma) * 2**COEFFICIENT_BITS).to_integral_value()))


def _time(embedding: Embedding, gamma: float) -> int:
    time = (gamma - embedding.low) / (embedding.high - embedding.low)
    if not abs(time) <= _FURTHEST_TIME:
        ends = f"[{embedding.low:g}, {embedding.high:g}]"
        raise NelboError(f"gamma = {gamma} is far outside the range {ends} that the network was trained for")
    return round(math.ldexp(time, TIME_BITS))


def _sinusoids(time: int, tensors: Mapping[str, Tensor]) -> Float[Tensor, " f"]:
    """Returns the sines and cosines of the embedding, as integers."""
    bits = TIME_BITS + RATE_BITS - PHASE_BITS
    # Python's integers: a product may pass 63 bits.
    phases = [(time * rate + (1 << (bits - 1))) >> bits for rate in tensors["embedding.rates"].tolist()]
    quarter = 1 << (PHASE_BITS - 2)
    sine = tensors["table.sine"].double()
    return sine[_wrapped([*phases, *(phase + quarter for phase in phases)])]


def _wrapped(phases: list[int]) -> Int[Tensor, " n"]:
    return torch.tensor([phase & ((1 << PHASE_BITS) - 1) for phase in phases])


def _layer(
    name: str, tensors: Mapping[str, Tensor], features: Float[Tensor, " i"], shift: int, limit: int
) -> Float[Tensor, " o"]:
    """Returns an integer linear layer's result."""
    total = tensors[f"{name}.weight"].double() @ features
    total = total * tensors[f"{name}.multiplier"] + tensors[f"{name}.offset"].double()
    return (total * 0.5**shift).floor().clamp(-limit, limit)
