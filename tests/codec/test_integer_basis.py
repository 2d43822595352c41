"""The basis in exact arithmetic: orthonormal cosines, maps that invert each other and are the same for every batch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nelbo.codec.integer_basis import COORDINATE_LIMIT, MATRIX_BITS, FixedBasis, cosines, fixed_axes
from nelbo.errors import NelboError

SHAPES = [(3, 32, 32), (1, 28, 28), (3, 7, 12), (1, 1, 1)]
AXES = {n: np.linalg.qr(np.random.default_rng(n).normal(size=(n, n)))[0] for n in (1, 2, 3)}


def basis_of(shape):
    return FixedBasis(fixed_axes(torch.from_numpy(AXES[shape[0]])), shape[1:])


def latents(shape, n, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.round(rng.normal(size=(n, *shape)) * 2**20).astype(np.int64))


def float_cosines(n):
    k, i = np.arange(n)[:, None], np.arange(n)[None]
    return np.sqrt(np.where(k == 0, 1, 2) / n) * np.cos(math.pi * (2 * i + 1) * k / (2 * n))


@pytest.mark.parametrize("n", [1, 2, 3, 8, 28, 32, 64])
def test_cosines_are_the_transforms_to_the_last_bit_but_one(n):
    difference = cosines(n).double().numpy() / 2**MATRIX_BITS - float_cosines(n)
    assert np.abs(difference).max() <= 2.0 ** -(MATRIX_BITS + 1) + 1e-14


@pytest.mark.parametrize("shape", SHAPES)
def test_coordinates_are_those_of_floating_point(shape):
    basis, axes = basis_of(shape), torch.from_numpy(AXES[shape[0]])
    x = latents(shape, 3)
    rows, columns = (torch.from_numpy(float_cosines(n)) for n in shape[1:])
    expected = torch.einsum("ar,ki,lj,brij->bakl", axes, rows, columns, x.double())
    assert (basis.coordinates(x) - expected).abs().max() < 16


@pytest.mark.parametrize("shape", SHAPES)
def test_maps_invert_each_other_but_for_rounding(shape):
    basis = basis_of(shape)
    x = latents(shape, 2)
    assert (basis.pixels(basis.coordinates(x)) - x).abs().max() < 16
    assert (basis.coordinates(basis.pixels(x)) - x).abs().max() < 16


@given(st.integers(0, 2**32), st.sampled_from([1.0, 1e3, 1e6]))
def test_sums_are_those_of_unbounded_integers(seed, size):
    basis = basis_of((2, 4, 6))
    x = (latents((2, 4, 6), 1, seed) * size).long()
    expected = x.clamp(-COORDINATE_LIMIT, COORDINATE_LIMIT).numpy().astype(object)
    for axis, matrix in enumerate(basis._axes, start=1):
        matrix = matrix.long().numpy().astype(object)
        moved = np.moveaxis(np.clip(expected, -COORDINATE_LIMIT, COORDINATE_LIMIT), axis, -1) @ matrix.T
        expected = np.moveaxis((moved + 2 ** (MATRIX_BITS - 1)) // 2**MATRIX_BITS, -1, axis)
    assert (basis.coordinates(x).numpy() == expected.astype(np.int64)).all()


def test_an_image_does_not_depend_on_its_batch():
    basis = basis_of((3, 32, 32))
    x = latents((3, 32, 32), 5)
    alone = torch.cat([basis.pixels(image[None]) for image in x])
    assert torch.equal(basis.pixels(x), alone)
    assert torch.equal(basis.pixels(x.to(memory_format=torch.channels_last)), alone)


def test_blocks_are_transformed_one_by_one():
    basis, x = basis_of((3, 4, 8)), latents((3, 12, 16), 2)
    blocks = [[basis.pixels(block) for block in rows.split(8, dim=3)] for rows in x.split(4, dim=2)]
    assert torch.equal(basis.pixels(x), torch.cat([torch.cat(row, dim=3) for row in blocks], dim=2))


def test_extreme_integers_are_clamped():
    basis = basis_of((3, 32, 32))
    x = torch.full((1, 3, 32, 32), 2**62)
    assert torch.equal(basis.coordinates(x), basis.coordinates(x.clamp(max=COORDINATE_LIMIT)))


@pytest.mark.parametrize("axes", [torch.ones(3, 3), torch.zeros(3, 3)])
def test_axes_must_be_orthonormal(axes):
    with pytest.raises(NelboError, match="colour axes of a basis are orthonormal rows"):
        FixedBasis(fixed_axes(axes), (4, 4))


def test_sides_are_bounded():
    with pytest.raises(NelboError, match="sides of 1 to 1024 pixels"):
        FixedBasis(fixed_axes(torch.eye(1)), (1, 2000))
