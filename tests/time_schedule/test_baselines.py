"""Rules of thumb name levels of the table, and none is better than the optimum."""

import itertools

import numpy as np
import pytest

from nelbo.time_schedule.baselines import BASELINES
from nelbo.time_schedule.optimise import optimal_schedules, path_bpd

from fixtures.schedule_cases import N_LEVELS, cases, ends, models


@cases
@ends
def test_no_baseline_and_no_other_path_is_better(gathered, model_name, reverse, settings):
    _, _, table = gathered(model_name)
    schedules = optimal_schedules(table, reverse=reverse, **settings)
    for k in range(1, N_LEVELS + 1):
        for rule in BASELINES.values():
            nodes = rule(table, k)
            assert len(nodes) == k + 1
            assert nodes[-1] == N_LEVELS
            assert all(s < t for s, t in itertools.pairwise(nodes))
            assert schedules.bpd(k) <= path_bpd(table, schedules.graph, nodes) + 1e-12
    rng = np.random.default_rng(0)
    for _ in range(50):
        k = int(rng.integers(1, N_LEVELS + 1))
        nodes = [0, *sorted((rng.choice(N_LEVELS, k, replace=False) + 1).tolist())]
        assert schedules.bpd(k) <= path_bpd(table, schedules.graph, nodes) + 1e-12


VALUES = {  # By hand from the rules: positions among 12 levels of four even steps, and their squares.
    ("vdm", "even"): [0, 3, 6, 9, 12],
    ("vdm", "quadratic"): [0, 1, 3, 7, 12],
    ("ddpm", "even"): [0, 1, 5, 8, 12],
    ("ddpm", "quadratic"): [0, 1, 2, 6, 12],
}


@pytest.mark.parametrize(("model_name", "rule"), VALUES)
def test_rules_of_position_give_these_levels(gathered, model_name, rule):
    assert BASELINES[rule](gathered(model_name)[2], 4) == VALUES[model_name, rule]


@models
def test_rules_of_noise_give_the_nearest_levels(gathered, model_name):
    """Even in gamma, and even in the angle whose cosine is alpha."""
    table = gathered(model_name)[2]
    first = table.gammas[0].item() if model_name == "ddpm" else table.subject.gamma_0
    times = np.linspace(0, 1, 4) if model_name == "ddpm" else np.arange(1, 5) / 4
    for rule, coordinate in {
        "even in gamma": lambda gamma: gamma,
        "cosine": lambda gamma: np.arccos(np.sqrt(1 / (1 + np.exp(gamma)))),
    }.items():
        low, high = coordinate(np.array([first, table.gammas[-1].item()]))
        fine = np.linspace(first, table.gammas[-1].item(), 100_001)
        wanted = np.interp(low + (high - low) * times, coordinate(fine), fine)
        nearest = [int(np.abs(table.gammas.numpy() - gamma).argmin()) + 1 for gamma in wanted]
        assert len(set(nearest)) == 4
        assert BASELINES[rule](table, 4) == [0, *nearest]
