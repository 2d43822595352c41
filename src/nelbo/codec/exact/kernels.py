# ruff: noqa: ANN001, ANN201 (numba infers the types)
"""The elementwise work of the fast executor for CPUs, compiled: one pass over each feature map where PyTorch needs ten.

Arrays are (batch, position, channel), integers in float32, sums in float64; digits of one integer stand in the first
axis. What is computed is to the bit what :mod:`nelbo.codec.exact.portable` computes. A kernel treats the images from
``start`` to ``stop``, so that threads can share a batch, and holds no lock.
"""

from typing import no_type_check

import numpy as np

from nelbo.compiled import compiled


@compiled
@no_type_check
def write_digits(row, in_scale, count, bits, out, image, position):
    """Writes the digits of one position's integers, rounded by the input's shift, in place of ``out``."""
    down, up = np.float32(0.5**bits), np.float32(2.0**bits)
    half = np.float32(0.5)
    for channel in range(row.size):
        row[channel] = np.floor(row[channel] * in_scale + half) if in_scale != 1 else row[channel]
    for digit in range(count - 1):
        for channel in range(row.size):
            above = np.floor(row[channel] * down + half)
            out[digit, image, position, channel] = row[channel] - above * up
            row[channel] = above
    for channel in range(row.size):
        out[count - 1, image, position, channel] = row[channel]


@compiled
@no_type_check
def split_into(x, in_shift, count, bits, out, start, stop):
    """Writes the digits of a feature map."""
    row = np.empty(x.shape[2], np.float32)
    for image in range(start, stop):
        for position in range(x.shape[1]):
            for channel in range(row.size):
                row[channel] = x[image, position, channel]
            write_digits(row, np.float32(0.5**in_shift), count, bits, out, image, position)


@compiled
@no_type_check
def join_into(digits, bits, multiplier, offset, scale, limit, out, start, stop):
    """Ends a convolution: from the products of all digits to its result."""
    count, up = digits.shape[0], 2.0**bits
    row = np.empty(digits.shape[3])
    for image in range(start, stop):
        for position in range(digits.shape[2]):
            for channel in range(row.size):
                row[channel] = digits[count - 1, image, position, channel]
            for digit in range(count - 2, -1, -1):
                for channel in range(row.size):
                    row[channel] = row[channel] * up + digits[digit, image, position, channel]
            for channel in range(row.size):
                value = np.floor((row[channel] * multiplier[channel] + offset[channel]) * scale)
                out[image, position, channel] = min(max(value, -limit), limit)


@compiled
@no_type_check
def add_into(x, y, limit, out, start, stop):
    """Writes the clamped sum of two feature maps."""
    for image in range(start, stop):
        for position in range(x.shape[1]):
            for channel in range(x.shape[2]):
                value = x[image, position, channel] + y[image, position, channel]
                out[image, position, channel] = min(max(value, -limit), limit)


@compiled
@no_type_check
def channel_sums(x, before, image, total, squares):
    """Sums each channel of an image, and its squares."""
    total[:] = 0
    squares[:] = 0
    for position in range(x.shape[1]):
        for channel in range(total.size):
            value = x[image, position, channel] + before[channel]
            total[channel] += value
            squares[channel] += value * value


@compiled
@no_type_check
def norm_lines(total, squares, n_positions, groups, eps, gain, offset, point, half, multiplier, start):
    """Turns the sums of channels into each channel's line: multiplier and start."""
    size = total.size // groups
    n = float(size * n_positions)
    for group in range(groups):
        channels = slice(group * size, (group + 1) * size)
        all_total, all_squares = total[channels].sum(), squares[channels].sum()
        near = np.floor(all_total / n)
        spread = all_squares - near * (2 * all_total - n * near)
        deviation = np.sqrt(spread / n + eps)
        mean = np.floor(all_total * 16 / n)
        for channel in range(group * size, (group + 1) * size):
            multiplier[channel] = np.floor(gain[channel] / deviation * point)
            start[channel] = offset[channel] * point - np.floor(multiplier[channel] * mean * 0.0625) + half


@compiled
@no_type_check
def norm_into(
    x,
    before,
    gain,
    offset,
    groups,
    eps,
    point,
    shift,
    low,
    high,
    silu,
    table,
    in_shift,
    count,
    bits,
    out,
    start,
    stop,
):
    """Normalises a feature map, applies SiLU if there is a table, and writes the digits of the result."""
    n_channels, middle, scale = x.shape[2], table.size // 2, 0.5**shift
    total, squares = np.empty(n_channels), np.empty(n_channels)
    multiplier, line = np.empty(n_channels), np.empty(n_channels)
    row, index = np.empty(n_channels, np.float32), np.empty(n_channels, np.int32)
    top, last = float(middle), np.float32(4 * middle)
    for image in range(start, stop):
        channel_sums(x, before, image, total, squares)
        norm_lines(total, squares, x.shape[1], groups, eps, gain, offset, point, 0.5 / scale, multiplier, line)
        for channel in range(n_channels):
            line[channel] += before[channel] * multiplier[channel]
        for position in range(x.shape[1]):
            if silu:
                for channel in range(n_channels):
                    y = np.floor((x[image, position, channel] * multiplier[channel] + line[channel]) * scale)
                    y = min(max(y, low), high)
                    row[channel] = y * 4
                    index[channel] = np.int32(min(y, top)) + np.int32(middle)
                for channel in range(n_channels):  # By itself, and unsigned, the look-up is one of many at a time.
                    inside = table[np.uint32(index[channel])]
                    row[channel] = inside if row[channel] <= last else row[channel]
            else:
                for channel in range(n_channels):
                    y = np.floor((x[image, position, channel] * multiplier[channel] + line[channel]) * scale)
                    row[channel] = min(max(y, low), high)
            write_digits(row, np.float32(0.5**in_shift), count, bits, out, image, position)


@compiled
@no_type_check
def fall_into(logits, multiplier, scale, table, start, stop):
    """Replaces rows of logits by what the exponential's table says of their distances from the row's largest."""
    last = table.size - 1
    for row in range(start, stop):
        top = logits[row].max()
        for column in range(logits.shape[1]):
            below = np.floor((top - logits[row, column]) * multiplier * scale)
            logits[row, column] = table[np.uint32(min(below, float(last)))]
