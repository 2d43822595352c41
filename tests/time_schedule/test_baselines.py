"""Rules of thumb name levels of the table, and none is better than the optimum."""

import itertools

import numpy as np

from nelbo.time_schedule.baselines import BASELINES
from nelbo.time_schedule.optimise import optimal_schedules, path_bpd

from fixtures.schedule_cases import N_LEVELS, cases, ends


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
