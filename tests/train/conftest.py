"""What the tests of training share: a run so small that a step takes milliseconds, in and out of this process."""

import multiprocessing
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from nelbo.cli.main import main
from nelbo.data import from_array
from nelbo.runtime.processes import World
from nelbo.train.config import override
from nelbo.train.presets import preset

from fixtures.networks import TINY_SETTINGS

TINY = (
    *TINY_SETTINGS,
    "model.net.dropout=0.1",
    'model.noise_schedule={"type":"linear","gamma_0":-13.3,"gamma_1":5,"learned":true}',
    "model.prediction=v",
    "n_images=160",
    "batch_size=16",
    "warmup_images=0",
    "optimizer=adamw",
    "learning_rate=1e-3",
    "weight_decay=0.01",
    "decay=cosine",
    "n_held_out=16",
    "precision=float32",
)

# Forks processes that have torch imported already: a real process to kill for a tenth of the price of a fresh one.
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["nelbo.cli.main", "nelbo.train.run", "torch._dynamo", "torch.utils.tensorboard"])


@pytest.fixture(scope="session")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def images(pixels):
    return from_array(pixels)


@pytest.fixture(scope="session")
def data_file(pixels, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=pixels)
    return path


@pytest.fixture(scope="session")
def world():
    return World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="session")
def tiny():
    """Returns the configuration of the tiny run, with some settings changed."""
    return lambda *settings: override(preset("cifar10-small"), [*TINY, *settings])


@pytest.fixture(scope="session")
def command(data_file):
    """Returns the arguments of ``nelbo`` that train the tiny run into a folder."""

    def arguments(out, *settings, log=3, checkpoint=2, evaluate=4):
        every = ("--log-every", log, "--checkpoint-every", checkpoint, "--evaluate-every", evaluate)
        paths = ("--preset", "cifar10-small", "--data", data_file, "--out", out)
        changes = [word for setting in (*TINY, *settings) for word in ("--set", setting)]
        return ["train", *map(str, (*paths, *every)), *changes]

    return arguments


@pytest.fixture
def start():
    """Starts ``nelbo`` with some arguments in a process of its own, or a script with some names defined."""
    started = []

    def run(arguments, script: Path | None = None, **names):
        if script is None:
            process = FRESH.Process(target=main, args=(arguments,))
        else:
            names["arguments"] = arguments
            process = FRESH.Process(target=runpy.run_path, args=(str(script), names))
        process.start()
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.join()
        process.close()
