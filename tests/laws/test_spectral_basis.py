"""The basis is orthonormal, blockwise, and its colour axes are those of the covariance they come from."""

import pytest
import torch

from nelbo.diffusion.spectral_basis import MAX_BLOCK, Basis, block_side, dct_matrix, plain_basis, principal_axes

SHAPES = [(1, 1, 1), (3, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 48), (3, 37, 5)]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def basis_of(shape):
    root = normal(shape[0], shape[0])
    return Basis(principal_axes(root @ root.T), plain_basis(shape).block)


@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back_is_nothing_and_lengths_stay(shape):
    basis, x = basis_of(shape), normal(2, *shape, seed=1)
    y = basis.forward(x)
    torch.testing.assert_close(basis.inverse(y), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(y.square().sum(), x.square().sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("n", [1, 2, 5, 32])
def test_the_cosine_transform_is_orthonormal_and_its_first_row_the_mean(n):
    matrix = dct_matrix(n)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(matrix[0] @ normal(n), normal(n).sum() / n**0.5)


def test_every_block_is_transformed_alone():
    basis, x = basis_of((3, 64, 32)), normal(1, 3, 64, 32, seed=1)
    lower = x.clone()
    lower[:, :, 32:] = 0
    torch.testing.assert_close(basis.forward(lower)[:, :, :32], basis.forward(x)[:, :, :32])
    assert not basis.forward(lower)[:, :, 32:].any()


def test_a_spectrum_is_spread_over_the_blocks_as_coordinates_are():
    basis = plain_basis((3, 64, 32))
    spectrum = normal(3, 32, 32)
    torch.testing.assert_close(basis.spread(spectrum, (3, 64, 32))[:, 32:], spectrum)


def test_bfloat16_autocast_does_not_touch_it():
    basis, x = basis_of((3, 32, 32)), normal(2, 3, 32, 32).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = basis.forward(x)
    torch.testing.assert_close(found, basis.forward(x), rtol=0, atol=0)


@pytest.mark.parametrize("side", range(1, 130))
def test_a_block_divides_the_side(side):
    block = block_side(side)
    assert side % block == 0
    assert block <= MAX_BLOCK
    assert block == side or side > MAX_BLOCK


def test_axes_diagonalise_the_covariance_largest_first():
    root = normal(3, 3)
    covariance = root @ root.T
    axes = principal_axes(covariance)
    diagonal = axes @ covariance @ axes.T
    torch.testing.assert_close(diagonal, torch.diag(diagonal.diagonal()), rtol=0, atol=1e-12)
    assert bool((diagonal.diagonal().diff() < 0).all())
    assert bool((axes.sum(1) > 0).all())
