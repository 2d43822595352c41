"""Model folders: how a trained model is kept.

A folder holds ``config.json`` (a :class:`~nelbo.models.config.ModelConfig`), ``model.safetensors`` (the weights) and
``README.md`` (the model card); where the mean and the spectrum of its images are known, ``moments.safetensors``.
"""

import json
from pathlib import Path

import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nelbo.diffusion.gaussian_entry import ImageMoments
from nelbo.errors import NelboError
from nelbo.models.config import parse_model_config
from nelbo.models.moments import MOMENTS, load_moments, save_moments
from nelbo.models.vdm import VDM
from nelbo.runtime.atomic import new_folder
from nelbo.runtime.bundled import bundled_models, model_folder

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def load(name: str | Path, device: str | torch.device = "cpu") -> VDM:
    """Returns a trained model, in evaluation mode.

    Args:
        name: A bundled model's name or the path of a model folder.
        device: Where to put it.

    Raises:
        NelboError: If there is no such model or its folder is damaged; the message names the file.
    """
    folder = model_folder(name)
    if not folder.is_dir():
        names = ", ".join(bundled_models()) or "none"
        raise NelboError(f"no model {str(name)!r}: it is neither a model folder nor a bundled model ({names})")
    return read_folder(folder).to(device)


def read_folder(folder: Path) -> VDM:
    """Returns the model in a folder that :func:`save` wrote, in evaluation mode.

    Raises:
        NelboError: If the folder is damaged; the message names the file.
    """
    if (folder / "model" / CONFIG).is_file():
        raise NelboError(f"{folder} is a training run: its model is {folder / 'model'}")
    config = parse_model_config(read_text(folder / CONFIG), str(folder / CONFIG))
    try:
        model = VDM(config)
    except NelboError as error:
        raise NelboError(f"{folder / CONFIG}: {error}") from None
    _fill(model, read_weights(folder / WEIGHTS), str(folder / WEIGHTS))
    if (folder / MOMENTS).is_file():
        model.image_moments = load_moments(folder / MOMENTS)
    return model.eval()


def save(model: VDM, folder: Path, card: str, dtype: torch.dtype = torch.float32) -> None:
    """Writes a model folder, whole or not at all, replacing one that was there.

    Args:
        model: The model.
        folder: Where to.
        card: The model card's text, in Markdown.
        dtype: What the network's weights are stored in; the noise schedule stays in float64.

    Raises:
        NelboError: If there is something else than a model folder, or the place cannot be written.
    """
    weights = {name: _stored(tensor, dtype) for name, tensor in model.state_dict().items()}
    write_folder(folder, weights, model.config, card, model.image_moments)


def write_folder(
    folder: Path, weights: dict[str, Tensor], config: BaseModel, card: str, moments: ImageMoments | None = None
) -> None:
    """Writes a model folder of any kind, whole or not at all, replacing one that was there.

    Raises:
        NelboError: If there is something else than a model folder, or the place cannot be written.
    """
    if folder.exists() and not (folder / CONFIG).exists():
        raise NelboError(f"{folder} exists and is no model folder, so it is not replaced: choose another place")
    with new_folder(folder) as temporary:
        save_file(weights, temporary / WEIGHTS)
        (temporary / CONFIG).write_text(json.dumps(config.model_dump(mode="json"), indent=2) + "\n")
        (temporary / CARD).write_text(card)
        if moments is not None:
            save_moments(moments, temporary / MOMENTS)


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    is_schedule = tensor.dtype == torch.float64
    return tensor.detach().cpu().to(tensor.dtype if is_schedule else dtype).contiguous()


def read_text(path: Path) -> str:
    """Returns the text of a model folder's file.

    Raises:
        NelboError: If it is missing or no text.
    """
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        raise NelboError(f"{path} cannot be read: a model folder holds {CONFIG} and {WEIGHTS}") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns the weights in a safetensors file.

    Raises:
        NelboError: If it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise NelboError(f"{path} is missing or damaged ({error}): copy the model folder again") from None


def _fill(model: VDM, weights: dict[str, Tensor], source: str) -> None:
    """Copies weights into a model; half-precision ones are promoted."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip()
        raise NelboError(f"{source} does not fit {CONFIG} beside it: {problem}") from None
