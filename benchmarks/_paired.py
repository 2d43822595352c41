"""Times paths in turn, A B A B ..., so that their ratios hold when the machine's speed drifts."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from nelbo.runtime.atomic import new_file


def compare(name: str, n_images: int, paths: Mapping[str, Callable[[], object]], rounds: int, out: Path | None) -> None:
    """Prints images a second of each path and the median of its ratio to the first, round by round; writes JSON.

    Args:
        name: What is measured.
        n_images: Images that one call of a path works on.
        paths: The paths by name, the baseline first.
        rounds: How often each is timed, after two calls that are not.
        out: Where to write the result.
    """
    for path in paths.values():
        for _ in range(2):
            path()
    seconds: dict[str, list[float]] = {label: [] for label in paths}
    for _ in range(rounds):
        for label, path in paths.items():
            seconds[label].append(_seconds(path))
    baseline = next(iter(seconds.values()))
    print(f"{name}: {torch.get_num_threads()} threads, medians of {rounds} rounds in turn")
    results = {}
    for label, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(baseline, values, strict=True))
        results[label] = {"images_per_second": n_images / statistics.median(values), "speed_up": ratio}
        print(f"  {label:<28} {n_images / statistics.median(values):8.1f} images/s  {ratio:5.2f} x")
    if out is not None:
        with new_file(out) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n")


def out_option(description: str | None) -> Path | None:
    """Returns the path given with ``--out``, or None."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path)
    return parser.parse_args().out


def _seconds(path: Callable[[], object]) -> float:
    started = time.perf_counter()
    path()
    return time.perf_counter() - started
