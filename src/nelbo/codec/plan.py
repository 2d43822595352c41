r"""The plan: every number of a chain as an integer, computed once by the encoder and stored, never computed again.

Latents live on one lattice a level, :math:`z_i = k_i \delta_i` in the chain's basis, with a step of

.. math:: \delta_i = \kappa \sigma_i \sqrt{\min(c_{i-1}, c_i)}, \qquad c_i = -\mathrm{expm1}(\gamma_i - \gamma_{i+1}),

:math:`\kappa` times the smaller of the standard deviations that q gives :math:`z_i` from below and that its posterior
has from above (1 stands for the missing c at both ends). In lattice steps the chain's means are

.. math:: q(z_0 | x): \alpha_0 x / \delta_0, \qquad
          q(z_t | z_s): \frac{\alpha_t}{\alpha_s} \frac{\delta_s}{\delta_t} k_s, \qquad
          p(z_s | z_t): \frac{\alpha_s}{\alpha_t} e^{\gamma_s - \gamma_t} \frac{\delta_t}{\delta_s} k_t
                        + \frac{\alpha_s c_s}{\delta_s} \hat x,

and the plan holds their coefficients.

References:
    Variational Diffusion Models (Kingma et al., 2021), appendix A. https://arxiv.org/abs/2107.00630
"""

import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from nelbo.container.framing import join_parts, split_parts
from nelbo.errors import CorruptArchiveError

STEP_BITS = 40  # Of a lattice step.
COEFFICIENT_BITS = 32  # Of coefficients, lattice steps for lattice steps.
RATIO_BITS = 6  # Of the base-2 logarithm of a standard deviation over the posterior's.
NO_NETWORK, NETWORK = 0, 1  # Whether the exit reads the latent or the network's prediction.
SOFTMAX, GAUSSIAN = 0, 1  # What an exit without the network is.
_MAX_BYTES = 1 << 26
_MAX_VALUE = 1 << 46


@dataclass(frozen=True, eq=False)
class Plan:
    """The integers of a chain of m levels.

    Attributes:
        steps: Lattice steps in units of 2^-40, shape (m,).
        first: Steps of the first lattice for one unit of x, in units of 2^-12.
        q_rates: Rates of q at each level, given the level below or x, shape (m,).
        up: Steps of the level above for a step of this one, in units of 2^-32, shape (m - 1,).
        down: Steps of this level for a step of the one above, likewise.
        down_x: Steps of this level for one unit of the prediction, in units of 2^-12, shape (m - 1,).
        p_rates: Rates of p at each level, shape (m,); the last is the prior's.
        ratios: Of the spectral kernel, 2^6 log2 of the standard deviations of a block's coordinates over that of
            ``p_rates``, shape (m - 1, c, bh, bw); else empty.
        colours: Colour axes of the basis in units of 2^-26, shape (c, c); empty if the basis is the pixels.
        exit: Whether the exit reads the network's prediction.
        own: Of an exit that does not: which it is; grey levels for a unit of z, in units of 2^-16; sharpness or rate.
        offsets: Of one that does: rows and columns from a pixel to its known neighbours, shape (n, 2).
        weights: Weights of known residuals, in units of 2^-16, shape (c, f).
        scales: Coefficients of the base-2 logarithm of the variance in 2^-26 of a squared grey level: the constant in
            units of 2^-32, three more in units of 2^-16, shape (c, 4), or (0, 4) without the network.
        rounding: What is taken off the variance, in 2^-26 of a squared grey level.
    """

    steps: Int64[np.ndarray, " m"]
    first: int
    q_rates: Int64[np.ndarray, " m"]
    up: Int64[np.ndarray, " n"]
    down: Int64[np.ndarray, " n"]
    down_x: Int64[np.ndarray, " n"]
    p_rates: Int64[np.ndarray, " m"]
    ratios: UInt8[np.ndarray, "..."]
    colours: Int64[np.ndarray, "..."]
    exit: int
    own: tuple[int, int, int]
    offsets: Int64[np.ndarray, "k 2"]
    weights: Int64[np.ndarray, "c f"]
    scales: Int64[np.ndarray, "r 4"]
    rounding: int

    @property
    def block(self) -> tuple[int, int]:
        """Height and width of the blocks of the basis; (0, 0) if it is the pixels."""
        return (self.ratios.shape[-2], self.ratios.shape[-1]) if self.ratios.size else (0, 0)

    def pack(self) -> bytes:
        """Returns the plan's bytes."""
        numbers = [self.first, self.exit, *self.own, self.rounding, *self.block]
        arrays = (self.steps, self.q_rates, self.up, self.down, self.down_x, self.p_rates, self.colours)
        exits = (self.offsets, self.weights, self.scales)
        parts = [np.array(numbers), *arrays, *exits]
        return zlib.compress(join_parts([*(part.astype("<i8").tobytes() for part in parts), self.ratios.tobytes()]), 9)


def unpack_plan(data: bytes, n_levels: int, image_shape: tuple[int, int, int]) -> Plan:
    """Returns the plan of packed bytes, the inverse of :meth:`Plan.pack`.

    Raises:
        CorruptArchiveError: If they are no plan of so many levels for such images.
    """
    *packed, ratios = split_parts(_inflated(data), 12)
    arrays = [_integers(part) for part in packed]
    if len(arrays[0]) != 8:
        raise _damaged()
    numbers, steps, q_rates, up, down, down_x, p_rates, colours, offsets, weights, scales = arrays
    first, exit, kind, slope, sharpness, rounding, *block = numbers.tolist()
    c, n = image_shape[0], n_levels - 1
    is_spectral = tuple(block) != (0, 0)
    if is_spectral and not (0 < block[0] <= image_shape[1] and 0 < block[1] <= image_shape[2]):
        raise _damaged()
    if is_spectral and (image_shape[1] % block[0] or image_shape[2] % block[1]):
        raise _damaged()
    plan_shapes = [(steps, n_levels), (q_rates, n_levels), (p_rates, n_levels), (up, n), (down, n), (down_x, n)]
    plan_shapes.append((colours, c * c if is_spectral else 0))
    n_weights = (len(offsets) // 2 * c + c - 1) * c if exit == NETWORK else 0
    plan_shapes += [(weights, n_weights), (scales, 4 * c if exit == NETWORK else 0)]
    n_ratios = n * c * block[0] * block[1]
    if any(len(array) != length for array, length in plan_shapes) or len(ratios) != n_ratios:
        raise _damaged()
    if exit not in (NO_NETWORK, NETWORK) or kind not in (SOFTMAX, GAUSSIAN) or not _offsets_fit(offsets):
        raise _damaged()
    return Plan(
        steps,
        first,
        q_rates,
        up,
        down,
        down_x,
        p_rates,
        np.frombuffer(ratios, np.uint8).reshape((n, c, *block) if is_spectral else (0,)),
        colours.reshape((c, c) if is_spectral else (0,)),
        exit,
        (kind, slope, sharpness),
        offsets.reshape(-1, 2),
        weights.reshape(c, -1),
        scales.reshape(-1, 4),
        rounding,
    )


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        result = inflater.decompress(data, _MAX_BYTES)
    except zlib.error:
        raise _damaged() from None
    if not inflater.eof or inflater.unused_data:
        raise _damaged()
    return result


def _integers(part: bytes) -> Int64[np.ndarray, " n"]:
    if len(part) % 8:
        raise _damaged()
    integers = np.frombuffer(part, "<i8").astype(np.int64)
    if len(integers) and (integers.min() <= -_MAX_VALUE or integers.max() >= _MAX_VALUE):
        raise _damaged()
    return integers


def _offsets_fit(offsets: Int64[np.ndarray, " n"]) -> bool:
    """Returns whether each neighbour comes before the pixel and is at most two rows and columns away."""
    if len(offsets) % 2 or len(offsets) > 24:
        return False
    return all(-2 <= dy <= 0 and -2 <= dx <= 2 and (dy < 0 or dx < 0) for dy, dx in offsets.reshape(-1, 2).tolist())


def _damaged() -> CorruptArchiveError:
    return CorruptArchiveError("the plan of the chain's steps is damaged: the file is")
