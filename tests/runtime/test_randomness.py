"""Every draw is a function of its name, the same on every machine; times cover [0, 1) evenly."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nelbo.diffusion.draws import evaluation_draws, evaluation_times, training_draws
from nelbo.runtime.randomness import generator, normal, normals, permutation, uniform

integers = st.integers(0, 2**40)

GOLDEN_INTEGERS = [1940577185319014031, 1064949722861068436]
GOLDEN_NORMALS = [-0.04740644246339798, -1.0398225784301758, 1.1496660709381104]
GOLDEN_UNIFORM = 0.5906012195607161
GOLDEN_PERMUTATION = [5, 4, 1, 3, 2, 0]


@given(st.text(), st.lists(integers))
def test_equal_names_give_equal_streams(purpose, key):
    first, second = (generator(purpose, *key).integers(1 << 62, size=8) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_every_part_of_a_name_counts():
    names = [("a", 0, 1), ("b", 0, 1), ("a", 1, 0), ("a", 0, 2), ("a", 2, 1), ("a", 1 << 32, 1), ("a", 1 << 40, 1)]
    assert len({tuple(generator(*name).integers(1 << 62, size=2)) for name in names}) == len(names)


def test_the_streams_never_change():
    """Seeds are part of published numbers: these values are the same in every version, on every processor."""
    assert generator("golden", 1, 2).integers(1 << 62, size=2).tolist() == GOLDEN_INTEGERS
    torch.testing.assert_close(normal((3,), "golden", 3), torch.tensor(GOLDEN_NORMALS), rtol=1e-6, atol=0)
    assert uniform("golden", 4) == GOLDEN_UNIFORM
    assert permutation(6, "golden", 5).tolist() == GOLDEN_PERMUTATION


def test_normals_depend_on_their_own_index_alone():
    many = normals((2, 3), [5, 0, 9], "purpose", 1)
    torch.testing.assert_close(many[:1], normals((2, 3), [5], "purpose", 1), rtol=0, atol=0)
    torch.testing.assert_close(many[2], normal((2, 3), "purpose", 1, 9), rtol=0, atol=0)


def test_normals_are_standard_and_independent_from_index_to_index():
    draws = normals((10,), range(10_000), "purpose")
    assert draws.dtype == torch.float32
    assert abs(draws.mean()) < 4 / 100_000**0.5
    assert abs(draws.square().mean() - 1) < 4 * (2 / 100_000) ** 0.5
    neighbours = (draws[1:] * draws[:-1]).mean()
    assert abs(neighbours) < 4 / 100_000**0.5


@given(st.integers(1, 200), integers)
def test_a_permutation_holds_every_number_once(n, key):
    assert sorted(permutation(n, "purpose", key)) == list(range(n))


@given(integers, st.integers(1, 64), st.integers(0, 50_000))
def test_the_passes_of_an_image_visit_every_step_of_as_many_once(seed, n_passes, index):
    times = [evaluation_times([index], seed, n_passes, which).item() for which in range(n_passes)]
    assert all(0 <= u < 1 for u in times)
    assert sorted(int(u * n_passes) for u in times) == list(range(n_passes))


@pytest.mark.parametrize("start", [0, 7, 40_000])
def test_any_run_of_images_is_evaluated_at_evenly_spread_times(start):
    times = evaluation_times(range(start, start + 100), seed=3).sort().values
    gaps = torch.cat([times.diff(), times[:1] + 1 - times[-1:]])
    assert times.dtype == torch.float64
    assert 0.003 < gaps.min() < gaps.max() < 0.02


def test_evaluation_draws_depend_on_seed_pass_and_index_alone():
    together = evaluation_draws(range(10), (1, 2, 2), seed=4, n_passes=3, which=1)
    alone = evaluation_draws([6], (1, 2, 2), seed=4, n_passes=3, which=1)
    for name in ("eps_0", "u", "eps_t"):
        torch.testing.assert_close(getattr(alone, name)[0], getattr(together, name)[6], rtol=0, atol=0)
    others = [evaluation_draws([6], (1, 2, 2), 5, 3, 1), evaluation_draws([6], (1, 2, 2), 4, 3, 2)]
    assert not any(torch.equal(other.eps_t, alone.eps_t) for other in others)
    assert not torch.equal(alone.eps_0, alone.eps_t)


@given(st.integers(1, 30), st.data())
def test_training_draws_are_the_same_however_the_batch_is_split(n_batch, data):
    cut = data.draw(st.integers(0, n_batch - 1))
    whole = training_draws(range(n_batch), n_batch, (1, 2, 2), seed=1, step=9)
    part = training_draws(range(cut, n_batch), n_batch, (1, 2, 2), seed=1, step=9)
    for name in ("eps_0", "u", "eps_t"):
        torch.testing.assert_close(getattr(part, name), getattr(whole, name)[cut:], rtol=0, atol=0)
    cells = (whole.u * n_batch - (whole.u * n_batch).min() % 1).round().long() % n_batch
    assert cells.sort().values.tolist() == list(range(n_batch))
