# ruff: noqa: ANN001, ANN201 (numba infers the types)
"""Norms in compiled loops: one pass over each feature map where PyTorch needs ten.

What is computed is to the bit what :class:`nelbo.integer.operations.norm.Norm` specifies. A loop treats the images from
``start`` to ``stop``, so that threads can share a batch, and holds no lock.
"""

from typing import no_type_check

import numpy as np

from nelbo.integer.feature_map import write_digits
from nelbo.runtime.loops import compiled


@compiled
@no_type_check
def repeat_into(channels, row):
    """Writes what each channel has at every position of a row."""
    for x in range(row.size // channels.size):
        for channel in range(channels.size):
            row[x * channels.size + channel] = channels[channel]


@compiled
@no_type_check
def channel_sums(values, before, total, squares, sums, sums_of_squares):
    """Sums each channel of an image given row by row, and its squares; the last two arrays hold a row each."""
    sums[:] = 0
    sums_of_squares[:] = 0
    for y in range(len(values)):
        for i in range(sums.size):
            value = values[y, i] + before[i]
            sums[i] += value
            sums_of_squares[i] += value * value
    total[:] = 0
    squares[:] = 0
    for x in range(sums.size // total.size):
        for channel in range(total.size):
            total[channel] += sums[x * total.size + channel]
            squares[channel] += sums_of_squares[x * total.size + channel]


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
    padding,
    start,
    stop,
):
    """Normalises a feature map, applies SiLU if there is a table, and writes the digits of the result."""
    n_channels, middle, scale = x.shape[2], table.size // 2, 0.5**shift
    width, height = out.shape[3] - 2 * padding, out.shape[2] - 2 * padding
    total, squares = np.empty(n_channels), np.empty(n_channels)
    multiplier, line = np.empty(n_channels), np.empty(n_channels)
    # The same for a row of positions: long loops are much faster than many short ones.
    multipliers, lines = np.empty(width * n_channels), np.empty(width * n_channels)
    befores, sums, sums_of_squares = np.empty(lines.size), np.empty(lines.size), np.empty(lines.size)
    repeat_into(before, befores)
    row, index = np.empty(lines.size, np.float32), np.empty(lines.size, np.int32)
    top, last = float(middle), np.float32(4 * middle)
    for image in range(start, stop):
        values = x[image].reshape(height, lines.size)
        channel_sums(values, befores, total, squares, sums, sums_of_squares)
        norm_lines(total, squares, x.shape[1], groups, eps, gain, offset, point, 0.5 / scale, multiplier, line)
        for channel in range(n_channels):
            line[channel] += before[channel] * multiplier[channel]
        repeat_into(multiplier, multipliers)
        repeat_into(line, lines)
        for y in range(height):
            if silu:
                for i in range(lines.size):
                    value = np.floor((values[y, i] * multipliers[i] + lines[i]) * scale)
                    value = min(max(value, low), high)
                    row[i] = value * 4
                    index[i] = np.int32(min(value, top)) + np.int32(middle)
                for i in range(lines.size):  # By itself, and unsigned, the look-up is one of many at a time.
                    inside = table[np.uint32(index[i])]
                    row[i] = inside if row[i] <= last else row[i]
            else:
                for i in range(lines.size):
                    value = np.floor((values[y, i] * multipliers[i] + lines[i]) * scale)
                    row[i] = min(max(value, low), high)
            write_digits(row, np.float32(0.5**in_shift), count, bits, out, image, y, padding)
