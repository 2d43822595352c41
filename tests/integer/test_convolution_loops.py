"""Convolutions of 16-bit integers against PyTorch's in float64, which holds all their sums exactly."""

import numpy as np
import pytest
import torch
from numba import njit

from nelbo.integer.feature_map import padded
from nelbo.integer.operations import convolution_loops
from nelbo.integer.operations.convolution_loops import BLOCK, convolve_into, packed

SHAPES = [  # Channels in and out, height and width, the kernel's size, stride, padding.
    (32, 32, (8, 8), 3, 1, 1),
    (15, 3, (5, 9), 3, 1, 1),
    (7, 65, (7, 7), 1, 1, 0),
    (4, 40, (6, 18), 2, 2, 0),
    (2, 1, (1, 1), 3, 1, 1),
]


def random_integers(generator, limit, *shape):
    return torch.randint(-limit, limit + 1, shape, generator=generator).double()


def convolved(run, digits, weight, stride, padding, bits=8):
    """Returns the convolution of digits (digit, image, channel, row, column), nothing rounded."""
    n_digits, n_images, n_channels, *sides = digits.shape
    x = padded(n_digits, n_images, (sides[0], sides[1]), n_channels, padding)
    inside = tuple(slice(padding, padding + side) for side in sides)
    x[:, :, *inside, :n_channels] = digits.movedim(2, -1)
    n_out, _, size, _ = weight.shape
    height, width = ((side + 2 * padding - size) // stride + 1 for side in sides)
    out = np.full((n_images, height * width, n_out), np.nan, np.float32)
    packed_weight, ones, zeros = packed(weight.numpy()), np.ones(n_out), np.zeros(n_out)
    run(x, packed_weight, stride, bits, ones, zeros, 1.0, 2.0**40, out, 0, n_images * len(packed_weight) * height)
    return torch.from_numpy(out).mT.unflatten(2, (height, width))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_digits", [1, 2])
def test_it_is_the_convolution(shape, n_digits):
    n_in, n_out, sides, size, stride, padding = shape
    generator = torch.Generator().manual_seed(n_in)
    digits = random_integers(generator, 100, n_digits, 3, n_in, *sides)
    weight = random_integers(generator, 500, n_out, n_in, size, size)
    x = torch.stack([256.0**i * digit for i, digit in enumerate(digits)]).sum(0)
    expected = torch.nn.functional.conv2d(x, weight, None, stride, padding).float()
    assert torch.equal(convolved(convolve_into, digits, weight, stride, padding), expected)


def test_sums_may_leave_32_bits_on_the_way():
    weight = torch.full((1, 8, 1, 1), 2.0**14 - 1)
    signs = torch.tensor([1.0, 1, 1, 1, 1, -1, -1, -1])  # Each product is nearly 2^29: the first five pass 2^31.
    digits = ((2**15 - 1) * signs).reshape(1, 1, 8, 1, 1)
    expected = 2.0 * (2**14 - 1) * (2**15 - 1)
    assert convolved(convolve_into, digits, weight, 1, 0).item() == np.float32(expected)


def test_results_are_scaled_floored_and_clamped():
    weight, out = np.array([[[[3.0]]], [[[-3.0]]], [[[1000.0]]]]), np.empty((1, 1, 3), np.float32)
    x = padded(1, 1, (1, 1), 1, 0)
    x[..., 0] = 7
    line = np.array([5.0, 5.0, 5.0]), np.array([1.0, 0.0, 0.0])
    convolve_into(x, packed(weight), 1, 1, *line, 0.25, 300.0, out, 0, 1)
    assert out.tolist() == [[[26.0, -27.0, 300.0]]]  # 106/4, -105/4 and 35000/4.


def test_only_its_rows_are_written():
    n_channels = BLOCK + 1
    weight, out = np.ones((n_channels, 2, 1, 1)), np.zeros((2, 3, n_channels), np.float32)
    x = padded(1, 2, (3, 1), 2, 0)
    x[:] = 1
    convolve_into(x, packed(weight), 1, 1, np.ones(n_channels), np.zeros(n_channels), 1.0, 9.0, out, 1, 8)
    expected = np.full((2, 3, 2), 2)  # Image, row, block.
    expected[0, 0, 0] = 0
    expected[1, :, 1] = expected[1, 2, 0] = 0
    assert (out[:, :, [0, BLOCK]] == expected).all()


def test_processors_without_the_instruction_compute_the_same(monkeypatch):
    """As on ARM: the same sums by products and additions that every processor has."""
    monkeypatch.setattr(convolution_loops, "_IS_X86", False)
    plain = njit(error_model="numpy")(convolve_into.py_func)
    digits = random_integers(torch.Generator().manual_seed(1), 2000, 1, 2, 7, 9, 9)
    weight = random_integers(torch.Generator().manual_seed(2), 2000, 40, 7, 3, 3)
    assert torch.equal(convolved(plain, digits, weight, 1, 1), convolved(convolve_into, digits, weight, 1, 1))
