"""Seconds and memory of the search at N = 4000 levels: every budget, and budgets to 256, by both searches.

The costs are the analytic kernel's of the exact denoiser of two unequal Gaussians, which satisfy the quadrangle
inequality, so both searches apply; they must find the same optimum.
"""

import json
import resource
import time

import numpy as np
from _paired import out_option

from nelbo.runtime.atomic import new_file
from nelbo.time_schedule.search import Method, shortest_paths

N_LEVELS = 4000
CASES: tuple[tuple[Method, int], ...] = (("monge", N_LEVELS), ("monge", 256), ("dense", 256), ("dense", N_LEVELS))


def monge_costs(n: int) -> np.ndarray:
    """Returns costs ln(1 + (SNR_s - SNR_t) e_t) of gammas even in [-13.3, 5], the data reached from anywhere."""
    snr = np.exp(-np.concatenate([[-13.3], np.linspace(-13.3, 5, n)]))
    error = 0.5 / (1 + snr) + 0.5 * 0.01 / (1 + 0.01 * snr)
    costs = 0.5 * np.log1p(np.maximum(snr[:, None] - snr, 0) * error)
    costs[0] = 3 + np.linspace(0, 9, n + 1) ** 2
    costs[np.tri(n + 1, dtype=bool)] = np.inf
    return costs


def main() -> None:
    """Prints the table."""
    out = out_option(__doc__)
    small, costs = monge_costs(50), monge_costs(N_LEVELS)
    for method in ("monge", "dense"):
        shortest_paths(small, method=method)  # Compiles.
    results, totals = {}, {}
    for method, max_steps in CASES:
        started = time.perf_counter()
        totals[method, max_steps] = shortest_paths(costs, max_steps, method=method).totals
        seconds = time.perf_counter() - started
        results[f"{method}, K <= {max_steps}"] = {"seconds": seconds}
        print(f"{method:>6}, N = {N_LEVELS}, K = 1..{max_steps:<5} {seconds:8.2f} s", flush=True)
    for max_steps in (256, N_LEVELS):
        gap = np.abs(totals["monge", max_steps] - totals["dense", max_steps]).max()
        results[f"largest difference, K <= {max_steps}"] = {"nats": gap}
        print(f"largest difference between the optima, K = 1..{max_steps}: {gap:.1e} nats")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    results["memory"] = {"GiB": memory}
    print(f"peak memory of the process: {memory:.2f} GiB")
    if out is not None:
        with new_file(out) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
