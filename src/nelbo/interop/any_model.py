"""``nelbo.load``: a model by its name, wherever it comes from."""

import json
import re
from pathlib import Path
from typing import Any

import torch

from nelbo.errors import NelboError
from nelbo.interop import diffusers, hub
from nelbo.interop.guided_diffusion import GuidedDiffusionConfig
from nelbo.interop.improved_diffusion import read_improved_diffusion
from nelbo.interop.python_file import HINT, is_python_file, load_from_function
from nelbo.models.folder import CONFIG, read_folder
from nelbo.models.interface import DiffusionModel
from nelbo.runtime.bundled import bundled_models, model_folder

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def load(name: str | Path, device: str | torch.device = "cpu") -> DiffusionModel:
    """Returns a trained model, in evaluation mode.

    Args:
        name: A bundled model's name; a model folder; a folder that diffusers saved, of a pipeline or of ``unet/`` and
            ``scheduler/``; the id of such a folder on the Hugging Face hub, as ``owner/name``; or a function in a
            Python file that makes the model, as ``path/to/file.py:make_model``.
        device: Where to put it.

    Raises:
        NelboError: If there is no such model, it is of a kind that nelbo does not read, or its folder is damaged.
    """
    folder = model_folder(name)
    if not folder.is_dir() and is_python_file(name):
        return load_from_function(name).eval().to(device)
    if folder.is_file():
        raise NelboError(_advice(folder))
    if not folder.is_dir():
        folder = _from_hub(name)
    return _read(folder).eval().to(device)


def _advice(file: Path) -> str:
    """Returns what to do with a file that is no model folder."""
    if file.suffix in (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".safetensors"):
        return (
            f"{file} holds weights without the code they are for: import it with `nelbo import`, if it is one of "
            f"improved-diffusion or guided-diffusion, or load it in {HINT}"
        )
    return f"{file} is a file, expected a model folder, a bundled model, an id on the hub, or {HINT}"


def _from_hub(name: str | Path) -> Path:
    """Returns the downloaded folder of a hub id; a path into a folder that exists is a slip, not an id."""
    is_id = isinstance(name, str) and _HUB_ID.fullmatch(name) and not Path(name).parent.is_dir()
    if not is_id or Path(name).exists():
        names = ", ".join(bundled_models()) or "none"
        raise NelboError(
            f"no model {str(name)!r}: it is neither a model folder, nor a bundled model ({names}), nor an id on the "
            f"hub, nor a FILE.py:FUNCTION"
        )
    return hub.download(str(name))


def _read(folder: Path) -> DiffusionModel:
    settings = _settings(folder / CONFIG)
    if diffusers.is_diffusers_folder(folder) or "_class_name" in settings:
        return diffusers.read_diffusers(folder)
    kind = settings.get("type")
    if kind == "improved_diffusion":
        return read_improved_diffusion(folder)
    if kind == "guided_diffusion":
        return read_improved_diffusion(folder, GuidedDiffusionConfig)
    return read_folder(folder)


def _settings(path: Path) -> dict[str, Any]:
    """Returns the settings in a file, none if it holds none: what is wrong with it, its reader will say."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
