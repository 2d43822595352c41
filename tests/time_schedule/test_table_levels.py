"""Levels of a table lie where the cost is, with both ends, and schedules keep the model's own timesteps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nelbo.diffusion.importance import Profile
from nelbo.errors import NelboError
from nelbo.evaluation import evaluate
from nelbo.interop.betas import gammas_of, named_betas
from nelbo.time_schedule.baselines import BASELINES
from nelbo.time_schedule.gather import error_table
from nelbo.time_schedule.optimise import optimal_schedules
from nelbo.time_schedule.table_levels import spread_by_cost


@given(n=st.integers(2, 120), logs=st.lists(st.floats(-20.0, 20.0), min_size=1, max_size=5))
def test_so_many_levels_are_chosen_both_ends_among_them(n, logs):
    gammas = gammas_of(named_betas("linear", 120))
    nodes = torch.linspace(-9.0, 4.0, len(logs), dtype=torch.float64)
    found = spread_by_cost(gammas, Profile(nodes, torch.tensor(logs, dtype=torch.float64).exp()), n)
    assert len(found) == n
    assert bool((found.diff() > 0).all())
    assert (found[0], found[-1]) == (0, 119)


def test_levels_are_dense_where_the_cost_is():
    gammas = gammas_of(named_betas("linear", 1000))
    found = spread_by_cost(gammas, Profile(torch.tensor([0.0]).double(), torch.tensor([1.0]).double()), 100)
    assert found[:5].tolist() == list(range(5))
    assert (found < 100).sum() > 20


def test_schedules_keep_the_models_own_timesteps(make_model, make_pixels):
    model = make_model(60, "forward")
    table = error_table(model, make_pixels(4), n_gammas=20, precision="float32", exit_kinds=())
    whole = error_table(model, make_pixels(4), n_gammas=60, precision="float32", exit_kinds=())
    fixed = {"reverse": "forward", "free_entry": False, "free_exit": False}
    for n_steps in (2, 6, 20):
        schedule, best = (optimal_schedules(each, [n_steps], **fixed)[n_steps] for each in (table, whole))
        assert schedule.timesteps is not None
        assert (schedule.timesteps[0], schedule.timesteps[-1]) == (0, 59)
        assert torch.equal(schedule.gammas, model.gammas[list(schedule.timesteps)])
        assert schedule.bpd >= best.bpd - 1e-9
        measured = evaluate(model, make_pixels(4), schedule, precision="float32")
        assert measured.bpd == pytest.approx(schedule.bpd, rel=1e-5)
    with pytest.raises(NelboError, match="from 1 to 20, the levels of the error table"):
        optimal_schedules(table, [21])


def test_rules_of_thumb_take_the_levels_nearest_to_the_models_time(make_model, make_pixels):
    table = error_table(make_model(60, "forward"), make_pixels(2), n_gammas=20, precision="float32", exit_kinds=())
    nodes = BASELINES["even"](table, 4)
    assert nodes[-1] == 20
    assert table.timesteps is not None
    for node, wanted in zip(nodes[1:], (0, 20, 39, 59), strict=True):
        assert abs(table.timestep(node - 1) - wanted) == (table.timesteps - wanted).abs().min()


@pytest.mark.parametrize("n_gammas", [0, 1])
def test_fewer_levels_than_ends_are_refused(make_model, make_pixels, n_gammas):
    with pytest.raises(NelboError, match="at least 2 gammas"):
        error_table(make_model(12, "forward"), make_pixels(2), n_gammas=n_gammas)
