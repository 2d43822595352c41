"""Checkpoints of the VDM paper's own code (google-research/vdm), read into a :class:`~nelbo.models.vdm.VDM`.

Nothing in such a file says how its network was configured, but the names and shapes of its parameters do:
channels are the outputs of ``conv_in``; there is one ``down.block_*`` for each block and, with attention, one
``down.attn_*``; with Fourier features ``conv_in`` reads five times the image's channels; the noise schedule
is what stands under ``gamma``. The side of the images is not to be found (the network is fully
convolutional), nor is the dropout rate.

A checkpoint is taken only if each of its averaged parameters is used once and each of ours is filled once.

References:
    Variational Diffusion Models (Kingma et al., 2021). https://github.com/google-research/vdm
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from nelbo.diffusion.noise_schedule import Linear, MonotoneNetwork
from nelbo.errors import NelboError
from nelbo.interop.flax_checkpoint import read_arrays
from nelbo.interop.official_vdm_names import SCHEDULES, Arrays, sources
from nelbo.models.config import (
    ModelConfig,
    UNetConfig,
    first_problem,
)
from nelbo.models.folder import save
from nelbo.models.noise_schedule_config import NoiseScheduleConfig, settings_of
from nelbo.models.vdm import VDM

GAMMA_RANGE = (-13.3, 5.0)  # gamma_min and gamma_max of every official configuration; not in the checkpoint.
DROPOUT = 0.1  # Not in the checkpoint either; it matters to further training alone.
FOURIER = (7, 8)  # Theirs are 2^n 2 pi with n = 6, 7.

_CARD = """# A variational diffusion model of {size}x{size} images

Imported by `nelbo import official-vdm` from `{name}`, a checkpoint of
[google-research/vdm](https://github.com/google-research/vdm); load it with `nelbo.load(FOLDER)`.

| | |
|---|---|
| weights | the checkpoint's exponential moving average |
| parameters | {n_parameters} |

Such a checkpoint holds neither the image size nor gamma_min and gamma_max (here {gamma_range}) nor the dropout rate:
the import set them. The configuration stands in `config.json`.
"""


def import_official_vdm(
    checkpoint: Path, out: Path, size: int = 32, gamma_range: tuple[float, float] = GAMMA_RANGE
) -> None:
    """Turns a checkpoint of the official code into a model folder.

    Args:
        checkpoint: The Flax checkpoint file.
        out: The model folder to write, replacing what was there.
        size: Height and width of the images it models, which the checkpoint does not hold.
        gamma_range: Its configuration's gamma_min and gamma_max, which it does not hold either.

    Raises:
        NelboError: If the file is damaged or no such checkpoint; nothing is written then.
    """
    model = read_official_vdm(checkpoint, size, gamma_range)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    card = _CARD.format(size=size, name=checkpoint.name, n_parameters=n_parameters, gamma_range=gamma_range)
    save(model, out, card)


def read_official_vdm(checkpoint: Path, size: int = 32, gamma_range: tuple[float, float] = GAMMA_RANGE) -> VDM:
    """Returns the model in a checkpoint of the official code, averaged weights, in evaluation mode.

    Args:
        checkpoint: The Flax checkpoint file.
        size: Height and width of the images it models, which the checkpoint does not hold.
        gamma_range: Its configuration's gamma_min and gamma_max, which it does not hold either.

    Raises:
        NelboError: If the file is damaged or no such checkpoint; the message names file and parameter.
    """
    if size < 1:
        raise NelboError(f"the image size is at least 1, got {size}")
    arrays = read_arrays(checkpoint, "ema_params")
    try:
        return _model(arrays, size, gamma_range).eval()
    except ValidationError as error:
        raise NelboError(f"{checkpoint} is no official VDM: {first_problem(error)}") from None
    except NelboError as error:
        raise NelboError(f"{checkpoint} is no official VDM: {error}") from None


def _model(arrays: Arrays, size: int, gamma_range: tuple[float, float]) -> VDM:
    _check_finite(arrays)
    net, gamma_type = _net(arrays, gamma_range), _gamma_type(arrays)
    shape = (arrays["score_model/conv_out/kernel"].shape[-1], size, size)
    config = ModelConfig(image_shape=shape, net=net, noise_schedule=_noise_schedule(arrays, gamma_type, gamma_range))
    with torch.device("meta"):  # Shapes alone: no memory is taken until the file is known to fill it.
        model = VDM(config)
    ours, theirs = model.state_dict(), sources(net.n_blocks, gamma_type)
    taken = {name: theirs[name] for name in ours if name in theirs}
    _check_names(arrays, {name for source in taken.values() for name in source.names})
    weights = {name: source.take(arrays, ours[name]) for name, source in taken.items()}
    if gamma_type == "fixed":
        constants = config.noise_schedule.build().state_dict()
        weights |= {f"noise_schedule.{name}": value for name, value in constants.items()}
    model.load_state_dict(weights, assign=True)
    return model


def _net(arrays: Arrays, gamma_range: tuple[float, float]) -> UNetConfig:
    """Returns the network that the parameters' names and shapes imply."""
    n_inputs, n_channels = _kernel(arrays, "score_model/conv_in/kernel")
    _, n_image_channels = _kernel(arrays, "score_model/conv_out/kernel")
    fourier = {n_image_channels: (), n_image_channels * (1 + 2 * len(FOURIER)): FOURIER}
    if n_inputs not in fourier:
        raise NelboError(f"conv_in reads {n_inputs} channels and conv_out writes {n_image_channels}")
    return UNetConfig(
        n_channels=n_channels,
        n_blocks=_count(arrays, "block"),
        attention=_count(arrays, "attn") > 0,
        dropout=DROPOUT,
        fourier=fourier[n_inputs],
        gamma_range=gamma_range,
    )


def _kernel(arrays: Arrays, name: str) -> tuple[int, int]:
    """Returns the inputs and outputs of a convolution."""
    if name not in arrays:
        raise NelboError(f"its ema_params lack {name}")
    shape = arrays[name].shape
    if len(shape) != 4:
        raise NelboError(f"{name} has shape {shape}, expected four axes")
    if 0 in shape:
        raise NelboError(f"{name} is empty, of shape {shape}")
    return shape[2], shape[3]


def _count(arrays: Arrays, what: str) -> int:
    found = (re.match(rf"score_model/down\.{what}_(\d+)/", name) for name in arrays)
    return len({match[1] for match in found if match})


def _gamma_type(arrays: Arrays) -> str:
    found = {name.removeprefix("gamma/") for name in arrays if name.startswith("gamma/")}
    for gamma_type, kind in SCHEDULES.items():
        if found == {name for name, _ in kind.values()}:
            return gamma_type
    raise NelboError(f"its noise schedule is of no known type ({_listed(found)} under gamma)")


def _noise_schedule(arrays: Arrays, gamma_type: str, gamma_range: tuple[float, float]) -> NoiseScheduleConfig:
    if gamma_type == "fixed":
        return settings_of(Linear)(gamma_0=gamma_range[0], gamma_1=gamma_range[1])
    if gamma_type == "learnable_scalar":
        gamma_0, width = _number(arrays, "gamma/b"), _number(arrays, "gamma/w")
        return settings_of(Linear)(gamma_0=gamma_0, gamma_1=gamma_0 + abs(width), learned=True)
    gamma_0, width = _number(arrays, "gamma/l1/bias"), _number(arrays, "gamma/l1/kernel")
    n_units = arrays["gamma/l2/bias"].size
    return settings_of(MonotoneNetwork)(gamma_0=gamma_0, gamma_1=gamma_0 + abs(width), n_units=n_units)


def _number(arrays: Arrays, name: str) -> float:
    if arrays[name].size != 1:
        raise NelboError(f"{name} has shape {arrays[name].shape}, expected one number")
    return arrays[name].item()


def _check_finite(arrays: Arrays) -> None:
    broken = {name for name, array in arrays.items() if not np.isfinite(array).all()}
    if broken:
        raise NelboError(f"not finite are {_listed(broken)}")


def _check_names(arrays: Arrays, expected: set[str]) -> None:
    missing, unexpected = expected - set(arrays), set(arrays) - expected
    if missing:
        raise NelboError(f"its ema_params lack {_listed(missing)}")
    if unexpected:
        raise NelboError(f"its ema_params hold, unexpectedly, {_listed(unexpected)}")


def _listed(names: Iterable[str], n_shown: int = 3) -> str:
    ordered = sorted(names)
    shown = ", ".join(f"{name!r:.80}" for name in ordered[:n_shown])
    return shown if len(ordered) <= n_shown else f"{shown} and {len(ordered) - n_shown} more"
