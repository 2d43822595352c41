# ruff: noqa: ANN001, ANN201, ANN202 (numba infers the types)
"""The inner loops of a group norm over bfloat16 features channels last: two sweeps over each image, all in float32.

Features come as the 16-bit integers that numba takes bfloat16 for, shape (b, p, c) with p positions; gains and offsets
have shape (b, c), means and rates shape (b, groups). Each call works on images ``start`` to ``stop``.
"""

from typing import no_type_check

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nelbo.runtime.loops import compiled_fused

_ONE, _ZERO = np.float32(1), np.float32(0)
_LOG2_E = np.float32(1.4426950408889634)
_REACH = np.float32(126)  # Powers of two from -126 on are no subnormals.
_ROUNDING = np.float32(1.5 * 2**23)  # A float32 plus this and minus it is rounded to an integer.
# 2^f for |f| <= 1/2, minimax: wrong by 3e-6 of it at most where bfloat16 keeps 2e-3.
_P1, _P2, _P3, _P4 = (np.float32(p) for p in (0.69312419, 0.24024099, 0.05590642, 0.00958285))
_HALF, _BIT, _SHIFT, _MANTISSA, _BIAS = np.uint32(0x7FFF), np.uint32(1), np.uint32(16), np.uint32(23), np.int32(127)


@intrinsic
@no_type_check
def _as_float(context, bits):
    """Returns the float32 of some bits."""
    return types.float32(types.uint32), lambda _, builder, signature, values: builder.bitcast(values[0], ir.FloatType())


@intrinsic
@no_type_check
def _as_bits(context, value):
    """Returns the bits of a float32."""
    return types.uint32(types.float32), lambda _, builder, signature, values: builder.bitcast(values[0], ir.IntType(32))


@compiled_fused
@no_type_check
def _widened(bits):
    return _as_float(np.uint32(bits) << _SHIFT)


@compiled_fused
@no_type_check
def _narrowed(value):
    """Returns the bits of the nearest bfloat16, ties to even."""
    bits = _as_bits(value)
    return np.uint16((bits + _HALF + ((bits >> _SHIFT) & _BIT)) >> _SHIFT)


@compiled_fused
@no_type_check
def _sigmoid(u):
    power = min(max(-u * _LOG2_E, -_REACH), _REACH)
    whole = (power + _ROUNDING) - _ROUNDING
    f = power - whole
    fraction = _ONE + f * (_P1 + f * (_P2 + f * (_P3 + f * _P4)))
    return _ONE / (_ONE + fraction * _as_float(np.uint32(np.int32(whole) + _BIAS) << _MANTISSA))


@compiled_fused
@no_type_check
def _silu_slope(u):
    s = _sigmoid(u)
    return s * (_ONE + u * (_ONE - s))


@compiled_fused
@no_type_check
def _fold(gain, offset, mean, rate, a, d):
    """Writes the factor and the term of each channel of an image."""
    width = len(gain) // len(mean)
    for c in range(len(gain)):
        a[c] = gain[c] * rate[c // width]
        d[c] = offset[c] - mean[c // width] * a[c]


@compiled_fused
@no_type_check
def norm_into(x, gain, offset, eps, activate, y, mean, rate, start, stop):
    """Writes the norm of each group times the gains plus the offsets, through SiLU if asked; means and rates too."""
    n_positions, n_channels = x.shape[1:]
    width = n_channels // mean.shape[1]
    sums, squares = np.empty(n_channels, np.float32), np.empty(n_channels, np.float32)
    a, d = np.empty(n_channels, np.float32), np.empty(n_channels, np.float32)
    share = _ONE / np.float32(n_positions * width)
    for n in range(start, stop):
        sums[:], squares[:], mean[n], rate[n] = _ZERO, _ZERO, _ZERO, _ZERO
        for p in range(n_positions):
            for c in range(n_channels):
                value = _widened(x[n, p, c])
                sums[c] += value
                squares[c] += value * value
        for c in range(n_channels):
            mean[n, c // width] += share * sums[c]
            rate[n, c // width] += share * squares[c]
        for g in range(mean.shape[1]):
            rate[n, g] = _ONE / np.sqrt(max(rate[n, g] - mean[n, g] * mean[n, g], _ZERO) + eps)
        _fold(gain[n], offset[n], mean[n], rate[n], a, d)
        for p in range(n_positions):
            if activate:
                for c in range(n_channels):
                    u = a[c] * _widened(x[n, p, c]) + d[c]
                    y[n, p, c] = _narrowed(u * _sigmoid(u))
            else:
                for c in range(n_channels):
                    y[n, p, c] = _narrowed(a[c] * _widened(x[n, p, c]) + d[c])


@compiled_fused
@no_type_check
def gradient_into(grad, x, gain, offset, activate, mean, rate, of_x, of_gain, of_offset, start, stop):
    """Writes the gradients of the features, the gains and the offsets, given that of the result of :func:`norm_into`.

    With t the gradient before SiLU, h the normed features and m_g the mean over a group,
    t_x = rate (w t - m_g(w t) - h m_g(w t h)): x moves the mean and the variance of its group as well.
    """
    n_positions, n_channels = x.shape[1:]
    width = n_channels // mean.shape[1]
    sums, products = np.empty(n_channels, np.float32), np.empty(n_channels, np.float32)
    a, d = np.empty(n_channels, np.float32), np.empty(n_channels, np.float32)
    of_mean, of_rate = np.empty(mean.shape[1], np.float32), np.empty(mean.shape[1], np.float32)
    constants, slopes = np.empty(n_channels, np.float32), np.empty(n_channels, np.float32)
    share = _ONE / np.float32(n_positions * width)
    inner = np.empty((n_positions, n_channels), np.float32)  # t, which the second sweep needs again
    for n in range(start, stop):
        _fold(gain[n], offset[n], mean[n], rate[n], a, d)
        sums[:], products[:], of_mean[:], of_rate[:] = _ZERO, _ZERO, _ZERO, _ZERO
        for p in range(n_positions):
            for c in range(n_channels):
                value, t = _widened(x[n, p, c]), _widened(grad[n, p, c])
                if activate:
                    t *= _silu_slope(a[c] * value + d[c])
                inner[p, c] = t
                sums[c] += t
                products[c] += t * value
        for c in range(n_channels):
            g = c // width
            of_offset[n, c] = sums[c]
            of_gain[n, c] = (products[c] - mean[n, g] * sums[c]) * rate[n, g]
            of_mean[g] += share * gain[n, c] * sums[c]
            of_rate[g] += share * gain[n, c] * of_gain[n, c]
        for c in range(n_channels):
            g = c // width
            slopes[c] = -rate[n, g] * rate[n, g] * of_rate[g]
            constants[c] = -rate[n, g] * of_mean[g] - mean[n, g] * slopes[c]
        for p in range(n_positions):
            for c in range(n_channels):
                value, t = _widened(x[n, p, c]), inner[p, c]
                of_x[n, p, c] = _narrowed(a[c] * t + slopes[c] * value + constants[c])
