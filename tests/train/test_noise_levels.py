"""The table of noise levels has equal shares of its density between neighbours."""

import runpy
from pathlib import Path

import pytest
import torch

even_shares = runpy.run_path(str(Path(__file__).parents[2] / "runs" / "noise_levels.py"))["even_shares"]


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_an_even_density_gives_an_even_grid():
    result = even_shares(float64(-13.3, 0.0, 5.0), float64(2.0, 2.0, 2.0), 6)
    torch.testing.assert_close(result, torch.linspace(-13.3, 5, 7, dtype=torch.float64), atol=2e-3, rtol=0)


def test_a_linear_density_gives_its_quantiles():
    result = even_shares(float64(0.0, 1.0), float64(0.0, 1.0), 4)
    torch.testing.assert_close(result, float64(0, 0.25, 0.5, 0.75, 1).sqrt(), atol=2e-4, rtol=0)


@pytest.mark.parametrize("n_cells", [1, 7])
def test_both_ends_stay_and_gammas_increase(n_cells):
    gammas = torch.linspace(-13.3, 5, 20, dtype=torch.float64)
    result = even_shares(gammas, torch.rand(20, dtype=torch.float64) + 0.1, n_cells)
    assert (result[0].item(), result[-1].item()) == (-13.3, 5.0)
    assert len(result) == n_cells + 1
    assert bool((result.diff() > 0).all())
