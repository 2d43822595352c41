"""Times two paths in turn, A B A B ..., so that their ratio holds when the machine's speed drifts."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from nelbo.atomic import new_file


def compare(name: str, n_images: int, paths: Mapping[str, Callable[[], object]], rounds: int, out: Path | None) -> None:
    """Prints images a second of two paths and the median of their ratio, round by round; writes them as JSON.

    Args:
        name: What is measured.
        n_images: Images that one call of a path works on.
        paths: The baseline, then the other, by name.
        rounds: How often each is timed, after one call that is not.
        out: Where to write the result.
    """
    for path in paths.values():
        path()
    seconds: dict[str, list[float]] = {label: [] for label in paths}
    for _ in range(rounds):
        for label, path in paths.items():
            seconds[label].append(_seconds(path))
    baseline, other = seconds.values()
    ratio = statistics.median(a / b for a, b in zip(baseline, other, strict=True))
    print(f"{name}: {torch.get_num_threads()} threads, {rounds} rounds, medians")
    for label, values in seconds.items():
        print(f"  {label:<24} {n_images / statistics.median(values):8.1f} images/s")
    print(f"  {'speed-up':<24} {ratio:8.2f} x")
    if out is not None:
        rates = {label: [n_images / value for value in values] for label, values in seconds.items()}
        with new_file(out) as temporary:
            temporary.write_text(json.dumps({"images_per_second": rates, "speed_up": ratio}, indent=2) + "\n")


def out_option(description: str | None) -> Path | None:
    """Returns the path given with ``--out``, or None."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path)
    return parser.parse_args().out


def _seconds(path: Callable[[], object]) -> float:
    started = time.perf_counter()
    path()
    return time.perf_counter() - started
