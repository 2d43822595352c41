"""What every test shares: one torch thread a process, and examples that are the same on every run."""

import importlib.util
import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # Before torch is imported, and for the processes that tests start.

import pytest
import torch
from hypothesis import settings

pytest_plugins = ["fixtures.new_members", "fixtures.networks", "fixtures.toy_models", "fixtures.archives"]

torch.set_num_threads(1)
settings.register_profile("laws", deadline=None, derandomize=True)
settings.load_profile("laws")


@pytest.fixture
def script(monkeypatch):
    """Loads a script of this repository, ``script("runs/steps.py")``, with its folder on the path as Python has it."""

    def load_script(name):
        path = Path(__file__).parents[1] / name
        monkeypatch.syspath_prepend(str(path.parent))
        spec = importlib.util.spec_from_file_location(path.stem.replace("-", "_"), path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load_script
