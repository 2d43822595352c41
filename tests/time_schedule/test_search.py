"""The dynamic program finds what brute force finds, for every number of steps, by both of its searches."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nelbo.errors import NelboError
from nelbo.time_schedule.search import is_monge, shortest_paths


def random_costs(n, seed, integers=False):
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, 4, (n + 1, n + 1)).astype(float) if integers else rng.random((n + 1, n + 1))
    return np.where(np.tri(n + 1, dtype=bool), np.inf, costs)


def monge_costs(n, seed):
    """Costs d/2 ln(1 + (SNR_s - SNR_t) e_t): the analytic kernel's, of the exact denoiser of two unequal Gaussians."""
    rng = np.random.default_rng(seed)
    snr = np.concatenate([[np.inf], np.sort(rng.gamma(0.5, 20, n))[::-1]])
    error = 0.5 / (1 + snr) + 0.5 * 0.01 / (1 + 0.01 * snr)
    with np.errstate(invalid="ignore"):
        costs = 0.5 * np.log1p((snr[:, None] - snr) * error)
    costs[0] = 3 + rng.random(n + 1)
    return np.where(np.tri(n + 1, dtype=bool), np.inf, costs)


def brute_force(costs, n_steps, entry):
    n = len(costs) - 1
    best = math.inf
    for inner in itertools.combinations(range(1, n + 1), n_steps):
        nodes = (0, *inner)
        best = min(best, sum(costs[s, t] for s, t in itertools.pairwise(nodes)) + entry[nodes[-1]])
    return best


def price(costs, nodes, entry):
    return sum(costs[s, t] for s, t in itertools.pairwise(nodes)) + entry[nodes[-1]]


def last_only(n):
    return np.array([np.inf] * n + [0.0])


@given(st.integers(1, 8), st.integers(0, 10_000), st.booleans(), st.booleans())
def test_every_budget_is_what_brute_force_finds(n, seed, integers, free_entry):
    """Ties, too: costs of small integers are full of them."""
    costs = random_costs(n, seed, integers)
    entry = np.random.default_rng(seed + 1).random(n + 1) if free_entry else last_only(n)
    paths = shortest_paths(costs, entry=entry if free_entry else None)
    assert len(paths.totals) == n
    for k in range(1, n + 1):
        assert paths.totals[k - 1] == pytest.approx(brute_force(costs, k, entry), abs=1e-12)
        nodes = paths.path(k)
        assert len(nodes) == k + 1
        assert nodes[0] == 0
        assert price(costs, nodes, entry) == pytest.approx(paths.totals[k - 1], abs=1e-12)


@given(st.integers(1, 40), st.integers(0, 10_000), st.booleans())
def test_both_searches_find_the_same_optimum(n, seed, free_entry):
    costs = monge_costs(n, seed)
    entry = 2 * np.random.default_rng(seed + 1).random(n + 1) if free_entry else None
    assert is_monge(costs)
    fast, dense = (shortest_paths(costs, entry=entry, method=method) for method in ("monge", "dense"))
    np.testing.assert_allclose(fast.totals, dense.totals, rtol=1e-14)
    assert (fast.method, dense.method) == ("monge", "dense")
    for k in range(1, n + 1):
        assert fast.path(k) == dense.path(k)


@given(st.integers(3, 30), st.integers(0, 10_000))
def test_some_levels_may_not_leave_for_the_data(n, seed):
    costs = monge_costs(n, seed)
    costs[0, np.random.default_rng(seed).random(n + 1) < 0.6] = np.inf
    fast, dense = (shortest_paths(costs, method=method) for method in ("monge", "dense"))
    np.testing.assert_array_equal(np.isfinite(fast.totals), np.isfinite(dense.totals))
    finite = np.isfinite(dense.totals)
    np.testing.assert_allclose(fast.totals[finite], dense.totals[finite], rtol=1e-14)


def test_the_choice_follows_the_costs_at_hand():
    assert shortest_paths(monge_costs(20, 0)).method == "monge"
    spoiled = monge_costs(20, 0)
    spoiled[7, 12] -= 1.0
    assert not is_monge(spoiled)
    assert shortest_paths(spoiled).method == "dense"
    with pytest.raises(NelboError, match="quadrangle"):
        shortest_paths(spoiled, method="monge")


@given(st.integers(1, 12), st.integers(0, 10_000))
def test_the_inequality_on_neighbours_is_the_inequality_on_all(n, seed):
    costs = monge_costs(n, seed) if seed % 2 else random_costs(n, seed)
    quadruples = itertools.combinations_with_replacement(range(1, n + 1), 4)
    everywhere = all(
        costs[a, c] + costs[b, d] <= costs[a, d] + costs[b, c] + 1e-12 for a, b, c, d in quadruples if b < c
    )
    if is_monge(costs):
        assert everywhere
    elif not everywhere:
        assert shortest_paths(costs).method == "dense"


def test_the_published_oracle():
    """Autoregressive diffusion: F(s, t) = (t - s) kl[s]."""
    kl = [5, 4, 3, 2.85, 2.80]
    costs = np.array([[(t - s) * kl[s] if s < t else np.inf for t in range(6)] for s in range(6)])
    paths = shortest_paths(costs)
    np.testing.assert_allclose(paths.totals, [25, 19, 18, 17.7, 17.65], rtol=1e-12)
    assert paths.path(1) == [0, 5]
    assert paths.path(5) == [0, 1, 2, 3, 4, 5]


def test_fewer_steps_than_asked_is_what_all_budgets_say():
    costs = monge_costs(30, 1)
    np.testing.assert_array_equal(shortest_paths(costs, 7).totals, shortest_paths(costs).totals[:7])


def test_a_budget_that_cannot_be_met_is_infinite_and_has_no_path():
    costs = random_costs(4, 0)
    costs[0, 2:] = np.inf
    costs[1, 3:] = np.inf  # 0 -> 1 -> 2 -> ... -> 4: no path of one or of two edges.
    paths = shortest_paths(costs)
    assert np.isinf(paths.totals[:2]).all()
    assert np.isfinite(paths.totals[2:]).all()
    for k in (0, 1, 2, 5, -1):
        with pytest.raises(NelboError, match="no path of exactly"):
            paths.path(k)


@pytest.mark.parametrize(
    ("costs", "settings", "message"),
    [
        (np.zeros((3, 4)), {}, "square"),
        (np.zeros((1, 1)), {}, "square"),
        (np.full((3, 3), np.nan), {}, "no cost"),
        (np.full((3, 3), -np.inf), {}, "no cost"),
        (np.zeros((3, 3)), {"max_steps": 0}, "from 1 to 2"),
        (np.zeros((3, 3)), {"max_steps": 3}, "from 1 to 2"),
        (np.zeros((3, 3)), {"entry": np.zeros(2)}, "one number per node"),
    ],
)
def test_what_is_no_graph_is_refused(costs, settings, message):
    with pytest.raises(NelboError, match=message):
        shortest_paths(costs, **settings)


def test_what_stands_below_the_diagonal_is_not_read():
    costs = random_costs(6, 3)
    scribbled = np.where(np.tri(7, dtype=bool), np.nan, costs)
    np.testing.assert_array_equal(shortest_paths(scribbled).totals, shortest_paths(costs).totals)
