"""The same integers under limits on instructions and threads, each in a process of its own."""

import importlib.util
from pathlib import Path

import pytest
import torch

from nelbo.pretrained import save

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "exact_portability.py"


def benchmark():
    spec = importlib.util.spec_from_file_location("exact_portability", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_emulated_processor_gives_the_same_integers(frozen_models, models, latents, tmp_path):
    portability = benchmark()
    frozen_models["multiscale"].save(tmp_path / "frozen")
    save(models["multiscale"], tmp_path / "model", "# A model")
    torch.save(latents(models["multiscale"], 8), tmp_path / "z.pt")
    rows = [
        portability.under(limits, n_threads, tmp_path, str(tmp_path / "model"))
        for limits, n_threads in zip(portability.LIMITS.values(), (2, 1, 2), strict=True)
    ]
    executors = ("native", "float32", "reference")
    assert len({digest for row in rows for name in executors for digest in row[name].values()}) == 1
