"""Checkpoints of OpenAI's improved-diffusion: plain state dicts, read into a network of ours, kept as a model folder.

The names and shapes of the weights tell the network's topology (:func:`topology`), whether it is class-conditional and
whether it learned its variances. They tell neither the betas nor the number of timesteps, the images' size, the
attention heads or what was predicted: those the user gives, with the defaults of their scripts. The sampling and
likelihood scripts of that program clip denoised images to [-1, 1], and so does the model here.

References:
    Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021).
    https://github.com/openai/improved-diffusion
"""

import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt, ValidationError
from torch import Tensor

from nelbo.errors import NelboError
from nelbo.interop.betas import BetaSchedule, named_betas
from nelbo.interop.ddpm import DDPM, DDPMConfig
from nelbo.interop.improved_diffusion_topology import Topology, Weights, topology
from nelbo.interop.improved_diffusion_unet import Heads, UNetImproved
from nelbo.models.config import Frozen, first_problem
from nelbo.models.folder import CONFIG, WEIGHTS, read_text, read_weights, write_folder

THEIR_STEPS = 1000  # With rescale_timesteps the network sees timesteps as if there were this many.

_CARD = """# A DDPM of {size}x{size} images

Imported by `nelbo import {program}` from `{name}`, a checkpoint of
[openai/{program}](https://github.com/openai/{program}); load it with `nelbo.load(FOLDER)`.

| | |
|---|---|
| parameters | {n_parameters} |
| timesteps | {n_steps}, {schedule} betas |
| variances | {variance} |
| classes | {n_classes} |

Such a checkpoint holds neither the image size nor the betas, the number of attention heads ({heads}) or whether
timesteps were rescaled ({rescaled}): the import was told. The configuration stands in `config.json`.
"""


class ImprovedDiffusionConfig(Frozen):
    """A model of improved-diffusion.

    Attributes:
        type: Tells its folder from those of other models.
        ddpm: What the network's output means.
        net: The network's topology.
        n_steps: Timesteps it was trained with (their ``diffusion_steps``).
        schedule: Its betas (their ``noise_schedule``).
        heads: Attention heads (their ``num_heads``).
        heads_up: Attention heads on the way up (their ``num_heads_upsample``).
        rescale_timesteps: Whether the network saw timesteps scaled to 0 .. 1000.
    """

    type: Literal["improved_diffusion"] = "improved_diffusion"
    ddpm: DDPMConfig
    net: Topology
    n_steps: int = Field(ge=2)
    schedule: BetaSchedule
    heads: PositiveInt
    heads_up: PositiveInt
    rescale_timesteps: bool

    def build(self) -> DDPM:
        """Returns the model at its initialisation."""
        return DDPM(self.build_net(), named_betas(self.schedule, self.n_steps), self.ddpm, self.model_dump_json())

    def build_net(self) -> UNetImproved:
        """Returns its network at its initialisation."""
        return self.net_with(Heads(self.heads, self.heads_up))

    def net_with(self, heads: Heads, resampling_blocks: bool = False) -> UNetImproved:
        """Returns the network of some attention heads."""
        scale = THEIR_STEPS / self.n_steps if self.rescale_timesteps else 1.0
        channels = self.ddpm.image_shape[0]
        return UNetImproved(
            channels,
            channels * (2 if self.ddpm.variance == "learned_range" else 1),
            self.net.n_channels,
            self.net.multipliers,
            self.net.n_blocks,
            self.net.attention,
            heads,
            self.ddpm.n_classes,
            self.net.modulated,
            scale,
            resampling_blocks,
        )


class Given(Frozen):
    """What a checkpoint does not tell, with the defaults of improved-diffusion's scripts.

    Attributes:
        steps: ``--diffusion_steps``.
        schedule: ``--noise_schedule``.
        size: ``--image_size``, height and width.
        heads: ``--num_heads``.
        heads_up: ``--num_heads_upsample``; None is the same as ``heads``.
        sigma_small: ``--sigma_small``: beta tilde in place of beta, for a checkpoint without learned variances.
        predict_xstart: ``--predict_xstart``: the network predicts the image.
        rescale_timesteps: ``--rescale_timesteps``.
    """

    steps: int = 1000
    schedule: BetaSchedule = "linear"
    size: int = 64
    heads: int = 4
    heads_up: int | None = None
    sigma_small: bool = False
    predict_xstart: bool = False
    rescale_timesteps: bool = True


def import_improved_diffusion(checkpoint: Path, out: Path, given: Given) -> None:
    """Turns a checkpoint of improved-diffusion into a model folder.

    Args:
        checkpoint: The ``.pt`` file, best that of the averaged weights (``ema_0.9999_*.pt``).
        out: The model folder to write, replacing what was there.
        given: What the checkpoint does not tell.

    Raises:
        NelboError: If the file is damaged or no such checkpoint, or what is given does not fit it; nothing is
            written then.
    """
    write_imported(
        checkpoint, out, lambda weights: ImprovedDiffusionConfig(**fields_of(weights, given)), "improved-diffusion"
    )


def write_imported(
    checkpoint: Path, out: Path, config_of: Callable[[Weights], ImprovedDiffusionConfig], program: str
) -> None:
    """Writes the model folder of a checkpoint, whose weights a configuration of one of OpenAI's programs fits.

    Raises:
        NelboError: If the checkpoint cannot be read or does not fit; nothing is written then.
    """
    weights = read_checkpoint(checkpoint)
    try:
        config = config_of(weights)
        _fill(config, weights)
    except ValidationError as error:
        raise NelboError(f"{checkpoint}: {first_problem(error)}") from None
    except NelboError as error:
        raise NelboError(f"{checkpoint}: {error}") from None
    write_folder(out, weights, config, _card(config, checkpoint.name, weights, program))


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Returns the weights of a checkpoint in float32; nothing in the file is executed.

    Raises:
        NelboError: If the file cannot be read or is no state dict of finite weights.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # Of pickles that torch did not write: read or refused below.
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise NelboError(f"{path} cannot be read: {error.strerror}") from None
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError, AttributeError):
        raise NelboError(
            f"{path} is damaged or no checkpoint of improved-diffusion (a state dict in a .pt file)"
        ) from None
    if not isinstance(content, dict) or not content or not all(isinstance(w, Tensor) for w in content.values()):
        raise NelboError(f"{path} is no checkpoint of improved-diffusion: it holds no plain state dict")
    broken = [name for name, weight in content.items() if not bool(weight.isfinite().all())]
    if broken:
        raise NelboError(f"{path} is damaged: {broken[0]} is not finite")
    return {str(name): weight.float().contiguous() for name, weight in content.items()}


def read_improved_diffusion(folder: Path, kind: type[ImprovedDiffusionConfig] = ImprovedDiffusionConfig) -> DDPM:
    """Returns the model in a folder that :func:`write_imported` wrote, in evaluation mode.

    Args:
        folder: The folder.
        kind: Its configuration.

    Raises:
        NelboError: If the folder is damaged; the message names the file.
    """
    try:
        config = kind.model_validate_json(read_text(folder / CONFIG))
    except ValidationError as error:
        raise NelboError(f"{folder / CONFIG}: {first_problem(error)}") from None
    try:
        return _fill(config, read_weights(folder / WEIGHTS))
    except NelboError as error:
        raise NelboError(f"{folder}: {error}") from None


def fields_of(weights: Weights, given: Given) -> dict[str, Any]:
    """Returns what the weights tell and what is given, together: the fields of a configuration."""
    net, n_inputs, n_outputs, n_classes = topology(weights)
    if n_outputs not in (n_inputs, 2 * n_inputs):
        raise NelboError(f"the network reads {n_inputs} channels and writes {n_outputs}, neither as many nor twice")
    is_learned = n_outputs == 2 * n_inputs
    if is_learned and given.sigma_small:
        raise NelboError("the network learned its variances, so sigma_small does not apply: leave it out")
    fixed = "fixed_small" if given.sigma_small else "fixed_large"
    shape, prediction = (n_inputs, given.size, given.size), "x" if given.predict_xstart else "eps"
    variance = "learned_range" if is_learned else fixed
    return {
        "ddpm": {"image_shape": shape, "prediction": prediction, "variance": variance, "n_classes": n_classes},
        "net": net,
        "n_steps": given.steps,
        "schedule": given.schedule,
        "heads": given.heads,
        "heads_up": given.heads_up or given.heads,
        "rescale_timesteps": given.rescale_timesteps,
    }


def _fill(config: ImprovedDiffusionConfig, weights: dict[str, Tensor]) -> DDPM:
    """Returns the model with its weights, each used once; no memory is taken before their shapes are known to fit."""
    with torch.device("meta"):
        expected = {name: tuple(weight.shape) for name, weight in config.build_net().state_dict().items()}
    missing, unexpected = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unexpected:
        what = f"it lacks {missing[0]}" if missing else f"it holds, unexpectedly, {unexpected[0]}"
        raise NelboError(f"no network of improved-diffusion or guided-diffusion: {what}")
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape:
            raise NelboError(f"{name} has shape {tuple(weights[name].shape)}, expected {shape}")
    side = 2 ** (len(config.net.multipliers) - 1)
    if any(size % side for size in config.ddpm.image_shape[1:]):
        raise NelboError(f"the network halves its images to 1/{side}: the size must be a multiple of that")
    model = config.build()
    model.net.load_state_dict(weights)
    return model.eval()


def _card(config: ImprovedDiffusionConfig, name: str, weights: Weights, program: str) -> str:
    return _CARD.format(
        program=program,
        size=config.ddpm.image_shape[1],
        name=name,
        n_parameters=sum(weight.numel() for weight in weights.values()),
        n_steps=config.n_steps,
        schedule=config.schedule,
        variance=config.ddpm.variance,
        n_classes=config.ddpm.n_classes or "none",
        heads=config.heads,
        rescaled=config.rescale_timesteps,
    )
