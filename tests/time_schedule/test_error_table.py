"""The error table: its statistics are what they say, its sums add up, and its file gives it back."""

from dataclasses import replace

import pytest
import torch

from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.draws import chain_draws
from nelbo.diffusion.gaussian import diffuse
from nelbo.diffusion.residual_decoder import ResidualDecoder
from nelbo.errors import NelboError
from nelbo.time_schedule.error_table import load_table, save_table, standard_errors
from nelbo.time_schedule.gather import SITTING, error_table

from fixtures.error_tables import assert_same, gather, kinds


@kinds
def test_statistics_are_those_of_the_mistakes(make_model, make_pixels, kind):
    """By a second way: the basis, the mean square and the prior from their definitions."""
    table = gather(make_model, make_pixels, kind=kind)
    basis = table.basis()
    for level in (0, 5, 9):
        torch.testing.assert_close(table.spectrum(level).mean(), table.mean_square[level], rtol=1e-6, atol=0)
    colours = basis.colours
    torch.testing.assert_close(colours @ colours.T, torch.eye(3).double())
    x = 2 * (make_pixels(6).double() + 0.5) / 256 - 1
    alpha_2, sigma_2 = torch.sigmoid(-table.gammas), torch.sigmoid(table.gammas)
    terms = alpha_2[:, None] * x.flatten(1).square().sum(1) + 48 * (sigma_2 - sigma_2.log() - 1)[:, None]
    torch.testing.assert_close(table.prior(), 0.5 * terms.mean(1), rtol=1e-6, atol=0)


@kinds
def test_tables_of_different_images_add_up(make_model, make_pixels, kind):
    model = make_model(*kind)
    first = error_table(model, make_pixels(SITTING), n_gammas=10, precision="float32")
    second = error_table(model, make_pixels(4, seed=3), n_gammas=10, precision="float32", exits_of=first)
    total = first + second
    assert total.images is None
    assert total.n_images.tolist() == [SITTING + 4] * len(total.gammas)
    torch.testing.assert_close(total.error, first.error + second.error)
    with pytest.raises(NelboError, match="exits_of"):
        _ = first + error_table(model, make_pixels(4, seed=3), n_gammas=10, precision="float32")
    with pytest.raises(NelboError, match="one model"):
        _ = first + replace(second, subject=replace(second.subject, seed=5))


@kinds
def test_a_file_gives_the_table_back(make_model, make_pixels, kind, tmp_path):
    table = gather(make_model, make_pixels, kind=kind)
    save_table(table, tmp_path / "table.safetensors", torch.float64)
    found = load_table(tmp_path / "table.safetensors")
    assert_same(found, table, rtol=1e-12)
    exit, other = table.exits["causal"][3], found.exits["causal"][3]
    assert isinstance(other, ResidualDecoder)
    assert torch.equal(exit.weights, other.weights)
    assert torch.equal(exit.scales, other.scales)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-6), (torch.float16, 1e-3)])
def test_fewer_digits_of_covariances_change_spectra_in_their_last_ones(make_model, make_pixels, tmp_path, dtype, rtol):
    table = gather(make_model, make_pixels, n_gammas=40)
    save_table(table, tmp_path / "table.safetensors", dtype)
    found = load_table(tmp_path / "table.safetensors")
    for level in range(40):
        largest = table.spectrum(level).max().item()
        torch.testing.assert_close(found.spectrum(level), table.spectrum(level), rtol=0, atol=3 * rtol * largest)


def test_damaged_and_foreign_files_are_refused(make_model, make_pixels, tmp_path):
    path = tmp_path / "table.safetensors"
    with pytest.raises(NelboError, match="no error table at"):
        load_table(path)
    save_table(gather(make_model, make_pixels), path)
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(NelboError, match=r"table\.safetensors is"):
            load_table(path)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(NelboError, match="no error table of this version"):
        load_table(path)
    save_file({"x": torch.zeros(1)}, path, {"format": "nelbo error table 1"})
    with pytest.raises(NelboError, match="is damaged"):
        load_table(path)


@pytest.mark.parametrize("shape", [(1, 64, 32), (3, 40, 6)])
def test_a_spectrum_is_the_mean_over_the_blocks_of_an_image(make_model, make_pixels, shape):
    """Where images are larger than a block: the mean square of a block's coordinates, by the basis itself."""
    model, images = make_model(shape=shape), make_pixels(3, shape=shape)
    table = error_table(model, images, n_gammas=2, precision="float32", exit_kinds=())
    _, eps = chain_draws(range(3), shape, 0)
    basis = table.basis()
    for level, gamma in enumerate(table.gammas):
        gammas = gamma.expand(3)
        eps_hat, _ = model.predict(diffuse(to_unit(images), eps, gammas), gammas)
        squares = basis.forward((eps - eps_hat).double()).square().mean(0)
        blocks = squares.unflatten(2, (-1, basis.block[1])).unflatten(1, (-1, basis.block[0]))
        torch.testing.assert_close(table.spectrum(level), blocks.mean((1, 3)), rtol=1e-4, atol=1e-9)


def test_standard_errors_are_those_of_the_values():
    """The square root of the unbiased variance over the number of values, from their sum and their sum of squares."""
    values = torch.tensor([[1.0, 2.0, 6.0, 3.0], [0.5, 0.5, 0.5, 0.5]], dtype=torch.float64)
    sums = torch.stack([values.sum(1), values.square().sum(1)], dim=1)
    expected = values.std(1) / 2
    torch.testing.assert_close(standard_errors(sums, 4), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(standard_errors(sums, torch.tensor([4, 4])), expected, rtol=1e-12, atol=0)
    single = torch.tensor([[3.0, 9.0]], dtype=torch.float64)
    assert standard_errors(single, 1).item() == 0
