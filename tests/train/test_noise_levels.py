"""The table of noise levels has equal shares of its density between neighbours."""

import runpy
from pathlib import Path

import pytest
import torch

from nelbo.data import from_array
from nelbo.diffusion.bound import squared_error
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.noise_schedule import Linear
from nelbo.nets.closed_form import MixtureDenoiser
from nelbo.runtime.randomness import normals

script = runpy.run_path(str(Path(__file__).parents[2] / "runs" / "noise_levels.py"))
even_shares, mean_squared_errors = script["even_shares"], script["mean_squared_errors"]


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


@pytest.mark.parametrize(("n", "used"), [(1, [0]), (5, range(5)), (64, range(64)), (130, range(0, 128, 2))])
def test_errors_are_those_of_evenly_spaced_images_or_of_all_of_few(exact_model, n, used):
    pixels = torch.randint(0, 256, (n, 1, 2, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    model = exact_model(MixtureDenoiser(to_unit(pixels[:1]).flip(-1)), Linear(-13.3, 5.0))
    gammas = float64(-3.0, 2.0)
    x, eps = to_unit(pixels[list(used)]), normals((1, 2, 2), used, "noise levels")
    expected = [squared_error(model.given(), x, eps, gamma.expand(len(x))).mean() / 4 for gamma in gammas]
    torch.testing.assert_close(mean_squared_errors(model, from_array(pixels), gammas), torch.stack(expected))
