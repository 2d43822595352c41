r"""The dynamic program: the cheapest path of exactly K edges, for every K at once.

Nodes are 0 (the data) to N (the noisiest level), an edge :math:`s < t` costs :math:`F[s, t]`, and

.. math:: C[0, 0] = 0, \qquad C[k, t] = \min_{s < t} C[k - 1, s] + F[s, t] .

A path of K edges from 0 to t costs :math:`C[K, t]`; it ends where :math:`C[K, t] + P[t]` is least, with P the cost of
starting the chain at t. One pass serves every K.

The minimum over s costs :math:`O(N^2)` a layer. Where the costs between levels satisfy the quadrangle inequality,

.. math:: F[a, c] + F[b, d] \le F[a, d] + F[b, c], \qquad a \le b \le c \le d ,

the best s moves up with t, and halving the range of t and of s together finds the same minima in
:math:`O(N \log N)`. The inequality is checked on the costs at hand. Edges from node 0 need not satisfy it: they make
up the first layer, which has nothing to minimise.

References:
    Learning to Efficiently Sample from Diffusion Probabilistic Models (Watson et al., 2021), section 3.
    https://arxiv.org/abs/2106.03802
    Speed-Up in Dynamic Programming (Yao, 1982). https://doi.org/10.1137/0603055
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Integer

from nelbo.errors import NelboError
from nelbo.runtime.loops import compiled

Method = Literal["auto", "dense", "monge"]


@dataclass(frozen=True, eq=False)
class ShortestPaths:
    """The cheapest paths of every length.

    Attributes:
        totals: Cost of the cheapest path of K edges, at index K - 1; infinite where there is none.
        ends: The node it ends at; -1 where there is none.
        method: What searched: ``dense``, or ``monge`` for the halving that the quadrangle inequality allows.
    """

    totals: Float[np.ndarray, " k"]
    ends: Int[np.ndarray, " k"]
    method: str
    _previous: Integer[np.ndarray, "k n"]

    def path(self, n_steps: int) -> list[int]:
        """Returns the nodes of the cheapest path of exactly ``n_steps`` edges, from 0 up.

        Raises:
            NelboError: If there is no path of so many edges.
        """
        if not 1 <= n_steps <= len(self.totals) or not np.isfinite(self.totals[n_steps - 1]):
            raise NelboError(
                f"there is no path of exactly {n_steps} steps: budgets run from 1 to at most {len(self.totals)}"
            )
        nodes = [int(self.ends[n_steps - 1])]
        for layer in range(n_steps - 1, -1, -1):
            nodes.append(int(self._previous[layer, nodes[-1]]))
        return nodes[::-1]


def shortest_paths(
    costs: Float[np.ndarray, "..."],
    max_steps: int | None = None,
    entry: Float[np.ndarray, "..."] | None = None,
    method: Method = "auto",
) -> ShortestPaths:
    """Returns the cheapest path of exactly K edges from node 0, for each K from 1 to ``max_steps``.

    Args:
        costs: F, in nats, shape (N + 1, N + 1), infinite where there is no edge; what stands at or below the diagonal
            is not read.
        max_steps: The largest K; at most, and by default, the number of nodes after 0.
        entry: P, what it costs to end at each node; by default nothing at the last and infinite elsewhere.
        method: ``dense`` or ``monge``; ``auto`` is monge where the costs allow it.

    Raises:
        NelboError: If the costs are not square, hold a NaN or minus infinity, ``max_steps`` is out of range, or
            ``monge`` is asked for and the costs do not allow it.

    Example:
        >>> costs = np.array([[np.inf, 1, 4], [np.inf, np.inf, 1], [np.inf, np.inf, np.inf]])
        >>> paths = shortest_paths(costs)
        >>> paths.totals, paths.path(2)
        (array([4., 2.]), [0, 1, 2])
    """
    _check(costs, max_steps, entry)
    n = len(costs) - 1
    by_end = np.ascontiguousarray(costs.T, dtype=np.float64)  # Row t: edges into t, contiguous in s.
    monge = method != "dense" and is_monge(costs)
    if method == "monge" and not monge:
        raise NelboError("the costs do not satisfy the quadrangle inequality: search with method 'dense' or 'auto'")
    prices = np.full(n + 1, np.inf) if entry is None else np.asarray(entry, dtype=np.float64)
    if entry is None:
        prices[n] = 0.0
    totals, ends, previous = _search(by_end, max_steps or n, prices, monge)
    return ShortestPaths(totals, ends, "monge" if monge else "dense", previous)


def is_monge(costs: Float[np.ndarray, "n n"]) -> bool:
    """Returns whether edges between nodes from 1 on satisfy the quadrangle inequality: all adjacent 2x2 minors do.

    Edges that do not exist (infinite) above the diagonal break it.
    """
    return bool(_is_monge(np.asarray(costs, dtype=np.float64)))


@compiled
def _is_monge(costs: np.ndarray) -> bool:
    n = len(costs)
    for s in range(1, n - 1):
        for t in range(s + 2, n - 1):
            near, far = costs[s, t] + costs[s + 1, t + 1], costs[s, t + 1] + costs[s + 1, t]
            if not (near <= far and np.isfinite(far)):
                return False
    return True


@compiled
def _search(
    by_end: np.ndarray, max_steps: int, entry: np.ndarray, monge: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = len(by_end) - 1
    totals, ends = np.full(max_steps, np.inf), np.full(max_steps, -1, dtype=np.int64)
    previous = np.zeros((max_steps, n + 1), dtype=np.uint16)
    cost = by_end[:, 0].copy()
    cost[0] = np.inf
    for layer in range(max_steps):
        if layer and monge:
            cost = _halving_layer(cost, by_end, layer, previous[layer])
        elif layer:
            cost = _dense_layer(cost, by_end, layer, previous[layer])
        for t in range(1, n + 1):
            if cost[t] + entry[t] < totals[layer]:
                totals[layer], ends[layer] = cost[t] + entry[t], t
    return totals, ends, previous


@compiled
def _dense_layer(cost: np.ndarray, by_end: np.ndarray, layer: int, previous: np.ndarray) -> np.ndarray:
    """Returns the costs of one edge more: a path of ``layer`` edges cannot end below that node."""
    n = len(cost) - 1
    result = np.full(n + 1, np.inf)
    for t in range(layer + 1, n + 1):
        for s in range(layer, t):
            total = cost[s] + by_end[t, s]
            if total < result[t]:
                result[t], previous[t] = total, s
    return result


@compiled
def _halving_layer(cost: np.ndarray, by_end: np.ndarray, layer: int, previous: np.ndarray) -> np.ndarray:
    """Returns the same as the dense layer: the best s for the middle t bounds it for the lower and the upper half."""
    n = len(cost) - 1
    result = np.full(n + 1, np.inf)
    stack = np.empty((64, 4), dtype=np.int64)
    stack[0] = (layer + 1, n, layer, n - 1)
    depth = 1
    while depth:
        depth -= 1
        low, high, first, last = stack[depth]
        if low > high:
            continue
        t = (low + high) // 2
        best = first
        for s in range(first, min(last, t - 1) + 1):
            total = cost[s] + by_end[t, s]
            if total < result[t]:
                result[t], best = total, s
        previous[t] = best
        stack[depth] = (low, t - 1, first, best)
        stack[depth + 1] = (t + 1, high, best, last)
        depth += 2
    return result


def _check(costs: np.ndarray, max_steps: int | None, entry: np.ndarray | None) -> None:
    if costs.ndim != 2 or costs.shape[0] != costs.shape[1] or not 2 <= len(costs) <= 2**16:
        raise NelboError(f"costs are a square table of 2 to 65536 nodes, got shape {costs.shape}")
    relevant = np.where(np.tri(len(costs), dtype=bool), 0.0, costs)
    if np.isnan(relevant).any() or np.isneginf(relevant).any():
        raise NelboError("the costs hold a value that is no cost (NaN or minus infinity): the error table is damaged")
    if max_steps is not None and not 1 <= max_steps < len(costs):
        raise NelboError(f"a budget is from 1 to {len(costs) - 1} steps, got {max_steps}")
    if entry is not None and entry.shape != (len(costs),):
        raise NelboError(f"entry costs are one number per node, shape {(len(costs),)}, got {entry.shape}")
