"""What every test shares: one torch thread a process, and examples that are the same on every run."""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["OMP_NUM_THREADS"] = "1"  # Before torch is imported, and for the processes that tests start.

import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from nelbo.models.interface import DiffusionModel

pytest_plugins = ["fixtures.archives"]

torch.set_num_threads(1)
settings.register_profile("laws", deadline=None, derandomize=True)
settings.load_profile("laws")


@pytest.fixture(scope="session")
def exact_model() -> "Callable[..., DiffusionModel]":
    """Makes a model of a closed-form denoiser: ``exact_model(denoiser, schedule, decoder="softmax")``."""
    from nelbo.diffusion.decoder import DECODERS
    from nelbo.diffusion.reverse import FIXED_KERNELS
    from nelbo.models.interface import DiffusionModel

    class ExactModel(DiffusionModel):
        def __init__(self, denoiser, noise_schedule, decoder="softmax", reverse="posterior"):
            super().__init__()
            self.denoiser = denoiser
            self.image_shape = denoiser.image_shape
            self.noise_schedule = noise_schedule
            self.decoder = DECODERS[decoder]
            self.reverse = FIXED_KERNELS[reverse]

        def denoise(self, z, gamma, labels=None):
            return self.denoiser(z, gamma)

    return ExactModel


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
