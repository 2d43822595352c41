"""Where a result comes from: model, data, command, version, seed and device, as every JSON and model card says."""

import hashlib
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nelbo.data.images import Images
from nelbo.models.fingerprint import fingerprint
from nelbo.models.interface import DiffusionModel

N_DIGESTED = 1024  # images of a larger set


def provenance(
    model: DiffusionModel, name: str | Path, data: Images | None = None, seed: int | None = None
) -> dict[str, Any]:
    """Returns where a result comes from, as JSON takes it.

    Args:
        model: The model.
        name: What the user called it.
        data: The images it was measured or trained on.
        seed: The randomness.
    """
    return {
        "model": str(name),
        "fingerprint": fingerprint(model),
        "data": None if data is None else describe_data(data),
        "command": command(),
        "version": version("nelbo"),
        "torch": torch.__version__,
        "seed": seed,
        "device": describe_device(model.device),
    }


def describe_data(data: Images) -> dict[str, Any]:
    """Returns a data set's path, number, shape and digest."""
    path = str(data.name) + (f" {data.preparation}" if data.preparation else "")
    return {"path": path, "n_images": len(data), "shape": list(data.shape), "sha256": data_digest(data)}


def data_digest(data: Images) -> str:
    """Returns the SHA-256 of a data set's number, shape and pixels; of a large set, of 1024 images evenly spread."""
    n = min(len(data), N_DIGESTED)
    digest = hashlib.sha256(repr((len(data), *data.shape)).encode())
    chosen = [i * len(data) // n for i in range(n)]
    for start in range(0, n, 64):
        digest.update(data.read(chosen[start : start + 64]).numpy().tobytes())
    return digest.hexdigest()


def describe_device(device: torch.device) -> str:
    """Returns the kind of a device, and what the machine calls it."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def command() -> str:
    """Returns the command that this process runs, as it would be typed."""
    program = Path(sys.argv[0] or "python")
    name = "nelbo" if program.parts[-2:] == ("nelbo", "__main__.py") else program.name
    return shlex.join([name, *sys.argv[1:]])
