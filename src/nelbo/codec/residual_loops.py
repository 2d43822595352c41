# ruff: noqa: ANN001, ANN201, ANN202 (numba infers the types)
"""The inner loops of exits that read the network's prediction: a mean and a rate for each pixel from those before it.

Units: predictions and residuals are in 2^-13 of a grey level, their squares in 2^-26, means in 2^-16, logarithms in
base 2 and 2^-16. Push and pop visit rows, columns and channels in the same order and share :func:`_situation`.
"""

from typing import no_type_check

import numpy as np

from nelbo.ans.loops import OK
from nelbo.ans.loops_gaussian import pop_grey_gaussian
from nelbo.ans.tables import MAX_GREY_MEAN, MEAN_BITS, RATE_BITS
from nelbo.runtime.decimals import GRID_BITS, LOG_BITS, POWER_BITS
from nelbo.runtime.loops import compiled

PREDICTION_BITS = 13
WEIGHT_BITS = 16
REACH = 2
QUIET = 1 << 2 * PREDICTION_BITS - 4  # A quarter of a grey level, squared.
MAX_PREDICTION = 1024 << PREDICTION_BITS
_MIN_VARIANCE = 1 << 2 * PREDICTION_BITS - 10  # 1/32 of a grey level, squared.
_MAX_LOG_VARIANCE = 46 << 2 * LOG_BITS  # 1024 grey levels, squared.
_RATE = float(1 << RATE_BITS + PREDICTION_BITS)
_MEAN_SHIFT = WEIGHT_BITS + PREDICTION_BITS - MEAN_BITS


@compiled
@no_type_check
def log2_of(value, log):
    """Returns the base-2 logarithm of a positive integer in units of 2^-16."""
    exponent, rest = 0, value
    for step in (32, 16, 8, 4, 2, 1):
        if rest >> step:
            exponent += step
            rest >>= step
    mantissa = (value << (62 - exponent)) - (1 << 62)
    i, fraction = mantissa >> (62 - GRID_BITS), (mantissa >> (62 - GRID_BITS - 16)) & 0xFFFF
    return (exponent << LOG_BITS) + log[i] + (((log[i + 1] - log[i]) * fraction) >> 16)


@compiled
@no_type_check
def power_of(exponent, power):
    """Returns 2 to the power of an exponent in units of 2^-32, from 0 on, rounded down."""
    whole, fraction = exponent >> 32, exponent & 0xFFFFFFFF
    i, rest = fraction >> (32 - GRID_BITS), (fraction >> (16 - GRID_BITS)) & 0xFFFF
    value = power[i] + (((power[i + 1] - power[i]) * rest) >> 16)
    return value << (whole - POWER_BITS) if whole >= POWER_BITS else value >> (POWER_BITS - whole)


@compiled
@no_type_check
def _slopes(prediction, log):
    """Returns the log energies of the differences of each prediction to its four neighbours, none beyond the edge."""
    height, width, n_channels = prediction.shape
    slopes = np.empty(prediction.shape, np.int64)
    for y in range(height):
        for x in range(width):
            for c in range(n_channels):
                here, energy = prediction[y, x, c], 4 * QUIET
                energy += (prediction[max(y - 1, 0), x, c] - here) ** 2
                energy += (prediction[min(y + 1, height - 1), x, c] - here) ** 2
                energy += (prediction[y, max(x - 1, 0), c] - here) ** 2
                energy += (prediction[y, min(x + 1, width - 1), c] - here) ** 2
                slopes[y, x, c] = log2_of(energy, log)
    return slopes


@compiled
@no_type_check
def _situation(residual, prediction, slope, y, x, c, offsets, weights, scales, rounding, log, power):
    """Returns the mean and the rate of a pixel's channel from the residuals before it."""
    n_channels, shift, place = residual.shape[2], np.int64(0), 0
    around = np.int64(offsets.shape[0] * n_channels * QUIET)
    for k in range(offsets.shape[0]):
        for other in range(n_channels):
            r = residual[y + REACH + offsets[k, 0], x + REACH + offsets[k, 1], other]
            shift += weights[c, place] * r
            around += r * r
            place += 1
    before = np.int64(c * QUIET)
    for other in range(c):
        r = residual[y + REACH, x + REACH, other]
        shift += weights[c, place] * r
        before += r * r
        place += 1
    log_variance = scales[c, 0] + scales[c, 3] * slope
    if offsets.shape[0] > 0:
        log_variance += scales[c, 1] * log2_of(around, log)
        if c > 0:
            log_variance += scales[c, 2] * log2_of(before, log)
    variance = power_of(min(max(log_variance, 0), _MAX_LOG_VARIANCE), power)
    rate = np.int64(_RATE / np.sqrt(np.float64(max(variance - rounding, _MIN_VARIANCE))))
    mean = (prediction << (MEAN_BITS - PREDICTION_BITS)) + (shift >> _MEAN_SHIFT)
    return min(max(mean, -MAX_GREY_MEAN), MAX_GREY_MEAN), rate


@compiled
@no_type_check
def exit_parameters(image, prediction, offsets, weights, scales, rounding, log, power, mean, rate):
    """Fills in the mean and the rate of every pixel's channel of a known image (h w c), in the order of coding."""
    height, width, n_channels = prediction.shape
    residual = np.zeros((height + REACH, width + 2 * REACH, n_channels), np.int64)
    slopes, i = _slopes(prediction, log), 0
    for y in range(height):
        for x in range(width):
            for c in range(n_channels):
                mean[i], rate[i] = _situation(
                    residual,
                    prediction[y, x, c],
                    slopes[y, x, c],
                    y,
                    x,
                    c,
                    offsets,
                    weights,
                    scales,
                    rounding,
                    log,
                    power,
                )
                grey = np.int64(image[y, x, c])
                residual[y + REACH, x + REACH, c] = (grey << PREDICTION_BITS) - prediction[y, x, c]
                i += 1


@compiled
@no_type_check
def pop_exit(state, words, head, image, prediction, offsets, weights, scales, rounding, log, power, cdf, quantiles):
    """Pops an image (h w c), each pixel's channel under what those before it say; the message may end half-way."""
    height, width, n_channels = prediction.shape
    residual = np.zeros((height + REACH, width + 2 * REACH, n_channels), np.int64)
    slopes = _slopes(prediction, log)
    symbol, mean, rate = np.empty(1, np.int64), np.empty(1, np.int64), np.empty(1, np.int64)
    for y in range(height):
        for x in range(width):
            for c in range(n_channels):
                mean[0], rate[0] = _situation(
                    residual,
                    prediction[y, x, c],
                    slopes[y, x, c],
                    y,
                    x,
                    c,
                    offsets,
                    weights,
                    scales,
                    rounding,
                    log,
                    power,
                )
                status = pop_grey_gaussian(state, words, head, symbol, mean, rate, cdf, quantiles)
                if status != OK:
                    return status
                image[y, x, c] = symbol[0]
                residual[y + REACH, x + REACH, c] = (symbol[0] << PREDICTION_BITS) - prediction[y, x, c]
    return OK
