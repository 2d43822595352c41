"""The embedding of one number, on which norms are conditioned: sines and cosines of its multiples, and two layers.

Like an operation it brings its record, its integers, its proof, and what it computes in floating point and in integers.
``rates``, ``dense0.*`` and ``dense1.*`` stand beside it, and ``condition.*`` beside each operation that it conditions.
"""

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt
from torch import Tensor
from torch.nn.functional import linear, silu

from nelbo.errors import NelboError
from nelbo.integer.arithmetic import (
    EXACT_FLOAT64,
    FEATURE_BITS,
    PHASE_BITS,
    RATE_BITS,
    STEM_BITS,
    TABLE_BITS,
    TABLE_HEADROOM,
    TIME_BITS,
    fixed,
    silu_limit,
)
from nelbo.integer.linear import Bound, IntegerLinear, check_sums, linear_of, quantise_linear, run_linear
from nelbo.integer.operations.operation import Limit, Observer, Shift
from nelbo.integer.tables import silu_of
from nelbo.integer.tensors import Tensors, tensor_of

_FURTHEST_TIME = 8  # Inputs this many ranges away are refused.
_LARGEST_END = 1e4  # Of the range: the exponential of what is refused only beyond 8 ranges stays a decimal.

Conditions = Mapping[int, Float[Tensor, " c"]]
End = Annotated[float, Field(ge=-_LARGEST_END, le=_LARGEST_END)]


class Embedding(BaseModel):
    """The embedding of a number.

    Attributes:
        low: The number that is mapped to time 0.
        high: The number that is mapped to time 1.
        shifts: The shifts of its two linear layers, which work like those of a convolution.
        limits: Their limits.
        condition_shifts: For each conditioned operation, by its position, the shift of the layer that projects the
            embedding, ``<position>.condition.*``.
        condition_limits: Their limits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    low: End
    high: End
    shifts: tuple[Shift, Shift] = (0, 0)
    limits: tuple[Limit, Limit] = (0, 0)
    condition_shifts: dict[NonNegativeInt, Shift] = {}
    condition_limits: dict[NonNegativeInt, Limit] = {}

    def run_float(self, tensors: Tensors, x: float, observe: Observer) -> Float[Tensor, " f"]:
        """Returns the embedding in floating point; ``observe`` is shown what the layers make."""
        angles = tensors["rates"] * ((x - self.low) / (self.high - self.low))
        features = torch.cat([angles.sin(), angles.cos()])
        for name in ("dense0", "dense1"):
            hidden = linear(features, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
            observe(name, hidden)
            features = silu(hidden)
        return features

    def quantise(
        self,
        floats: Tensors,
        largest: Mapping[str, float],
        conditioned: Mapping[int, tuple[Tensor, float]],
    ) -> tuple["Embedding", Tensors, dict[int, Tensors]]:
        """Returns the embedding with its numbers, its integers, and those of each conditioned operation.

        Args:
            floats: Its weights.
            largest: The largest sizes of what its layers make.
            conditioned: For each conditioned operation the float weights, and the largest size of its conditioning.

        Raises:
            NelboError: If a sum cannot be exact.
        """
        limits = [math.ceil(TABLE_HEADROOM * largest[f"dense{i}"] * 2**TABLE_BITS) for i in range(2)]
        tensors = {"rates": fixed(floats["rates"] / (2 * torch.pi), RATE_BITS).long()}
        shifts = []
        for i, (in_bits, in_limit) in enumerate(((STEM_BITS, 2**STEM_BITS), (FEATURE_BITS, silu_limit(limits[0])))):
            name = f"dense{i}"
            layer = _quantised(floats[f"{name}.weight"], floats[f"{name}.bias"], (in_bits, TABLE_BITS), in_limit)
            tensors |= layer.tensors(f"{name}.")
            shifts.append(layer.shift)
        bits, in_limit = (FEATURE_BITS, FEATURE_BITS), silu_limit(limits[1])
        layers = {i: _quantised(weight, None, bits, in_limit) for i, (weight, _) in conditioned.items()}
        numbers = {
            "shifts": tuple(shifts),
            "limits": tuple(limits),
            "condition_shifts": {i: layer.shift for i, layer in layers.items()},
            "condition_limits": {
                i: math.ceil(TABLE_HEADROOM * size * 2**FEATURE_BITS) + 1 for i, (_, size) in conditioned.items()
            },
        }
        own = {i: layer.tensors("condition.") for i, layer in layers.items()}
        return self.model_copy(update=numbers), tensors, own

    def check(self, tensors: Tensors, owned: Mapping[str, Tensors], rows: Mapping[int, int]) -> None:
        """Proves that all its sums are exact.

        Args:
            tensors: Its integers.
            owned: Those of all operations.
            rows: For each conditioned operation, how many numbers it takes.

        Raises:
            NelboError: If a tensor is missing or does not fit, or a sum may leave its accumulator.
        """
        if not self.low < self.high:
            raise NelboError(f"its range [{self.low:g}, {self.high:g}] is empty")
        if set(rows) != set(self.condition_shifts) or set(rows) != set(self.condition_limits):
            raise NelboError(f"it conditions operations {sorted(self.condition_shifts)}, not {sorted(rows)}")
        n, in_limit = 2 * len(tensor_of(tensors, "rates", torch.int64, (None,))), 2**STEM_BITS
        for i in range(2):
            layer = linear_of(tensors, f"dense{i}.", (n,))
            check_sums(*layer, in_limit)
            n, in_limit = len(layer[0]), silu_limit(self.limits[i])
        for position, n_rows in rows.items():
            layer = linear_of(owned[str(position)], "condition.", (n,))
            if len(layer[0]) != n_rows:
                raise NelboError(f"it gives operation {position} {len(layer[0])} numbers, not {n_rows}")
            check_sums(*layer, in_limit)

    def run(self, tensors: Tensors, owned: Mapping[str, Tensors], tables: Tensors, x: float) -> Conditions:
        """Returns the conditioning of each conditioned operation for any number, the same on every machine.

        Raises:
            NelboError: If the number is not finite, or far outside the range.
        """
        features = _sinusoids(self._time(x), tensors["rates"], tables["sine"])
        for i in range(2):
            hidden = run_linear(tensors, f"dense{i}.", features, self.shifts[i], self.limits[i])
            features = silu_of(hidden, tables["silu"])
        return {
            i: run_linear(owned[str(i)], "condition.", features, shift, self.condition_limits[i])
            for i, shift in self.condition_shifts.items()
        }

    def _time(self, x: float) -> int:
        time = (x - self.low) / (self.high - self.low)
        if not abs(time) <= _FURTHEST_TIME:
            ends = f"[{self.low:g}, {self.high:g}]"
            raise NelboError(f"gamma = {x} is far outside the range {ends} that the network was trained for")
        return round(math.ldexp(time, TIME_BITS))


def _quantised(weight: Tensor, bias: Tensor | None, bits: tuple[int, int], in_limit: int) -> IntegerLinear:
    return quantise_linear(weight, bias, bits, in_limit, [Bound(EXACT_FLOAT64 // (in_limit << 18))])


def _sinusoids(time: int, rates: Tensor, sine: Tensor) -> Float[Tensor, " f"]:
    """Returns sines and cosines as integers: angles are integers in turns, looked up in the table."""
    bits, quarter, mask = TIME_BITS + RATE_BITS - PHASE_BITS, 1 << (PHASE_BITS - 2), (1 << PHASE_BITS) - 1
    # Python's integers: a product may pass 63 bits.
    phases = [(time * rate + (1 << (bits - 1))) >> bits for rate in rates.tolist()]
    return sine.double()[torch.tensor([phase & mask for phase in (*phases, *(p + quarter for p in phases))])]
