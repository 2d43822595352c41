# ruff: noqa: ANN001, ANN201, ANN202 (numba infers the types)
r"""Convolutions of 16-bit integers, compiled: products are added in pairs into 32 bits, modulo :math:`2^{32}`.

Addition modulo :math:`2^{32}` is exact in any order, so a sum is right whenever its value fits 32 bits, whatever
happens on the way. Processors multiply and add such pairs in one instruction (``pmaddwd``; on recent ones
``vpdpwssd``), at twice the rate of float32.

A block of ``LANES * N_VECTORS`` channels at ``N_POSITIONS`` neighbouring positions is summed in registers. Inputs have
shape (digit, image, row, column, channel), padded beforehand, with an even number of channels.
"""

import platform
from typing import no_type_check

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from nelbo.runtime.loops import compiled

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)


def _has(feature: str) -> bool:
    """Returns whether numba compiles for a processor that has a feature, by its own settings or the processor's."""
    chosen = getattr(config, "CPU_FEATURES", None)
    return f"+{feature}" in (get_host_cpu_features() if chosen is None else chosen).split(",")


_IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
LANES = 16 if _has("avx512bw") else 8 if _has("avx2") else 4
N_VECTORS, N_POSITIONS = 2, 8 if LANES == 16 else 4  # As many sums as there are registers for.
BLOCK = LANES * N_VECTORS
_PAIR_SUM = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd", 4: "llvm.x86.sse2.pmadd.wd"}[LANES]
_SUMS, _PAIRS = ir.VectorType(_I32, LANES), ir.VectorType(_I16, 2 * LANES)


def packed(weight: np.ndarray) -> np.ndarray:
    """Returns weights (out, in, k, k) in the order in which they are read.

    Shape (block, row, pair, BLOCK, 2): a row of the filter is k times in / 2 pairs. Zeros fill up what is missing.
    """
    n_out, n_in, size, _ = weight.shape
    n_blocks, n_even = -(-n_out // BLOCK), n_in + n_in % 2
    full = np.zeros((n_blocks * BLOCK, size, size, n_even), np.int16)
    full[:n_out, :, :, :n_in] = weight.transpose(0, 2, 3, 1)
    pairs = full.reshape(n_blocks, BLOCK, size, size * n_even // 2, 2)
    return np.ascontiguousarray(pairs.transpose(0, 2, 3, 1, 4))


@no_type_check
def _add_pairs(builder, total, x, w):
    """Returns each lane's sum plus both products of its pair."""
    if _IS_X86:
        function = builder.module.declare_intrinsic(_PAIR_SUM, fnty=ir.FunctionType(_SUMS, [_PAIRS, _PAIRS]))
        return builder.add(total, builder.call(function, [x, w]))
    for odd in (0, 1):
        which = ir.Constant(ir.VectorType(_I32, LANES), [2 * lane + odd for lane in range(LANES)])
        factors = [builder.sext(builder.shuffle_vector(value, value, which), _SUMS) for value in (x, w)]
        total = builder.add(total, builder.mul(*factors))
    return total


@no_type_check
def _broadcast(builder, pair):
    """Returns a pair in every lane."""
    nothing = ir.Constant(_SUMS, ir.Undefined)
    one = builder.insert_element(nothing, pair, _I32(0))
    every = builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES))
    return builder.bitcast(every, _PAIRS)


@intrinsic
@no_type_check
def _sum_products(context, x, start, step, row, w, w_start, n_rows, n_pairs, out):
    """Writes the sums of a block: of ``n_rows`` rows, ``row`` apart, of pairs at positions ``step`` apart."""
    signature = types.void(x, *[types.int64] * 3, w, *[types.int64] * 3, out)

    def codegen(context, builder, signature, values):
        x, w, out = (
            context.make_array(signature.args[i])(context, builder, values[i]).data for i in (0, 4, len(values) - 1)
        )
        _, start, step, row, _, w_start, n_rows, n_pairs, _ = values
        zero = ir.Constant(_SUMS, [0] * LANES)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(N_POSITIONS * N_VECTORS)]  # Become registers.
        with cgutils.for_range(builder, n_rows) as rows, cgutils.for_range(builder, n_pairs) as pairs:
            place = builder.add(start, builder.add(builder.mul(rows.index, row), builder.mul(pairs.index, _I64(2))))
            which = builder.add(builder.mul(rows.index, n_pairs), pairs.index)
            place_w = builder.add(w_start, builder.mul(which, _I64(2 * BLOCK)))
            offsets = [builder.add(place_w, _I64(2 * LANES * v)) for v in range(N_VECTORS)]
            weights = [builder.load(_at(builder, w, offset, _PAIRS), align=2) for offset in offsets]
            for p in range(N_POSITIONS):
                at_p = builder.add(place, builder.mul(step, _I64(p)))
                pair = _broadcast(builder, builder.load(_at(builder, x, at_p, _I32), align=2))
                for slot, weight in zip(sums[p * N_VECTORS :], weights, strict=False):
                    builder.store(_add_pairs(builder, builder.load(slot), pair, weight), slot)
        for i, slot in enumerate(sums):
            builder.store(builder.load(slot), _at(builder, out, _I64(i * LANES), _SUMS), align=4)
        return context.get_dummy_value()

    return signature, codegen


@no_type_check
def _at(builder, data, offset, kind):
    """Returns a pointer to something of a kind at an offset of an array."""
    return builder.bitcast(builder.gep(data, [offset]), kind.as_pointer())


@compiled
@no_type_check
def convolve_into(x, weight, stride, bits, multiplier, offset, scale, limit, out, start, stop):
    """Writes a convolution of digits of ``bits`` bits: sums, each channel's line, floor and clamp.

    Args:
        x: The digits, lowest first, as :class:`nelbo.integer.feature_map.Digits` has them.
        weight: :func:`packed`.
        stride: Of the convolution.
        bits: The logarithm of the digits' base.
        multiplier: Of each channel.
        offset: Of each channel.
        scale: What the line is multiplied by at last.
        limit: The largest size of a result.
        out: The result, (image, position, channel) in float32.
        start: The first row, of those of all blocks of all images.
        stop: The one after the last.
    """
    n_digits, n_images, n_rows, n_columns, n_in = x.shape
    n_blocks, size, n_pairs = weight.shape[:3]
    values, weights, n_out = x.reshape(-1), weight.reshape(-1), out.shape[2]
    height, width = (n_rows - size) // stride + 1, (n_columns - size) // stride + 1
    sums, total, up = np.empty(N_POSITIONS * BLOCK, np.int32), np.empty(N_POSITIONS * BLOCK), 2.0**bits
    for item in range(start, stop):
        image, block, y = item // (height * n_blocks), item // height % n_blocks, item % height
        first = block * BLOCK
        for left in range(0, width, N_POSITIONS):
            for digit in range(n_digits - 1, -1, -1):
                corner = ((digit * n_images + image) * n_rows + y * stride) * n_columns + left * stride
                steps = corner * n_in, stride * n_in, n_columns * n_in
                _sum_products(values, *steps, weights, first * 2 * size * n_pairs, size, n_pairs, sums)
                if digit == n_digits - 1:
                    for i in range(total.size):
                        total[i] = sums[i]
                else:
                    for i in range(total.size):
                        total[i] = total[i] * up + sums[i]
            for p in range(min(N_POSITIONS, width - left)):
                position = y * width + left + p
                for k in range(min(BLOCK, n_out - first)):
                    value = total[p * BLOCK + k] * multiplier[first + k] + offset[first + k]
                    out[image, position, first + k] = min(max(np.floor(value * scale), -limit), limit)
