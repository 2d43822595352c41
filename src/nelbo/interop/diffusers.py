"""DDPMs saved by Hugging Face's diffusers, read into a :class:`~nelbo.interop.ddpm.DDPM`.

A folder is a pipeline's (``model_index.json`` with ``unet/`` and ``scheduler/``), the same two folders without the
index, or, as the first releases wrote it, the files of both side by side. The network must be a ``UNet2DModel`` on
pixels and the scheduler one of those with betas, ``SCHEDULERS``: whichever a pipeline samples with, the network was
trained as a DDPM with these betas, which are taken as diffusers computes them and multiplied in float64. What a
scheduler does not say is as in a ``DDPMScheduler``: denoised images are clipped, and variances are beta tilde, or
learned if the network has as many outputs more.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nelbo.errors import NelboError, one_line
from nelbo.interop.betas import checked
from nelbo.interop.ddpm import DDPM, DDPMConfig, Variance
from nelbo.interop.optional import installed
from nelbo.interop.timetable_scheduler import VARIANCES
from nelbo.nets.fourier import Stem

WEIGHTS = "diffusion_pytorch_model"
INDEX, NET, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
SCHEDULERS = (
    "DDPMScheduler",
    "TimetableScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "LCMScheduler",
)
PREDICTIONS = {"epsilon": "eps", "sample": "x", "v_prediction": "v"}
_DDPM_ONLY = "nelbo reads DDPMs of pixels: a UNet2DModel with a DDPMScheduler"


class DiffusersNet(nn.Module):
    """A UNet2DModel under the signature that :class:`~nelbo.interop.ddpm.DDPM` calls.

    Its first layer runs in float32 whatever the autocast, as those of our own networks do.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        theirs: nn.Conv2d = unet.conv_in  # pyright: ignore[reportAssignmentType]
        unet.conv_in = Stem(theirs.in_channels, theirs.out_channels, fourier=())
        unet.conv_in.load_state_dict(theirs.state_dict())
        self.unet = unet

    def forward(
        self, z: Float[Tensor, "b c h w"], t: Int[Tensor, " b"], labels: Int[Tensor, " b"] | None
    ) -> Float[Tensor, "b o h w"]:
        """Returns the U-Net's output."""
        return self.unet(z, t, class_labels=labels).sample


def is_diffusers_folder(folder: Path) -> bool:
    """Returns whether a folder holds something that diffusers saved."""
    if any(path.is_file() for path in (folder / INDEX, folder / "unet" / NET, folder / "scheduler" / SCHEDULER)):
        return True
    return (folder / NET).is_file() and (folder / SCHEDULER).is_file()


def read_diffusers(folder: Path) -> DDPM:
    """Returns the DDPM in a folder that diffusers saved, in evaluation mode.

    Args:
        folder: The folder of a pipeline, or of ``unet/`` and ``scheduler/``.

    Raises:
        NelboError: If diffusers is not installed, the folder is damaged, or it holds another kind of model.
    """
    library = installed("diffusers", "diffusers")
    _check_index(folder)
    net_folder, scheduler_folder = _part(folder, "unet", NET), _part(folder, "scheduler", SCHEDULER)
    net, scheduler = _json(net_folder / NET), _json(scheduler_folder / SCHEDULER)
    try:
        config = _config(net, scheduler)
        betas = _betas(library, scheduler)
        return DDPM(DiffusersNet(_unet(library, net_folder)), betas, config, _identity(net)).eval()
    except NelboError as error:
        raise NelboError(f"{folder}: {error}") from None


def _check_index(folder: Path) -> None:
    """Refuses pipelines with other parts than a U-Net and a scheduler."""
    if not (folder / INDEX).exists():
        return
    index = _json(folder / INDEX)
    parts = {name for name, value in index.items() if not name.startswith("_") and isinstance(value, list)}
    others = sorted(parts - {"unet", "scheduler"})
    if others:
        raise NelboError(f"{folder} is a {index.get('_class_name')} with {', '.join(others)}: {_DDPM_ONLY}")


def _part(folder: Path, name: str, file: str) -> Path:
    """Returns the folder of a part, which may be the whole folder."""
    for place in (folder / name, folder):
        if (place / file).is_file():
            return place
    raise NelboError(f"{folder} has no {name}/{file}: {_DDPM_ONLY}, as its save_pretrained writes them")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise NelboError(f"{path} cannot be read ({error}): copy the folder again") from None
    if not isinstance(content, dict):
        raise NelboError(f"{path} holds no settings: copy the folder again")
    return content


def _config(net: dict[str, Any], scheduler: dict[str, Any]) -> DDPMConfig:
    """Returns what the two files say of the network's output."""
    _check_classes(net, scheduler)
    channels, out = net.get("in_channels", 3), net.get("out_channels", 3)
    variance = _variance(scheduler, channels, out)
    expected = channels * (2 if variance == "learned_range" else 1)
    if channels not in (1, 3):
        raise NelboError(f"its U-Net has {channels} input channels, so it models no grey or RGB pixels: {_DDPM_ONLY}")
    if out != expected:
        raise NelboError(f"its U-Net has {out} output channels, expected {expected} with variance_type {variance}")
    if scheduler.get("thresholding", False):
        raise NelboError("its scheduler sets thresholding, which makes a pixel's step depend on all: switch it off")
    return DDPMConfig(
        image_shape=(channels, *_size(net)),
        prediction=_one_of(scheduler, "prediction_type", PREDICTIONS, "epsilon"),
        variance=variance,
        clip=_clip(scheduler),
        n_classes=_n_classes(net),
    )


def _identity(net: dict[str, Any]) -> str:
    """Returns a U-Net's settings, without what diffusers notes about where and when they were written."""
    return json.dumps({name: value for name, value in sorted(net.items()) if name[0] != "_"})


def _check_classes(net: dict[str, Any], scheduler: dict[str, Any]) -> None:
    kind, schedule = net.get("_class_name"), scheduler.get("_class_name")
    if kind != "UNet2DModel":
        raise NelboError(f"its network is a {kind}: {_DDPM_ONLY}")
    if net.get("time_embedding_type") == "fourier":
        raise NelboError(
            "its U-Net embeds the logarithm of its timestep, which timestep 0 does not have: it is one of sigmas, not "
            "of a DDPM; wrap it with nelbo.from_denoiser(..., coordinate='sigma')"
        )
    if schedule not in SCHEDULERS:
        raise NelboError(
            f"its scheduler is a {schedule}, which has no betas, expected a DDPMScheduler or one of its relatives: for "
            "flow matching, EDM and other continuous noise levels wrap the network with nelbo.from_denoiser(...)"
        )
    if scheduler.get("use_flow_sigmas") or scheduler.get("timestep_type", "discrete") != "discrete":
        raise NelboError(f"its {schedule} has continuous noise levels: wrap the network with nelbo.from_denoiser(...)")


def _variance(scheduler: dict[str, Any], channels: int, out: int) -> Variance:
    """Returns the variance that a scheduler says, or that the network's outputs say where it says none."""
    if scheduler.get("variance_type") is None and scheduler.get("_class_name") != "DDPMScheduler":
        return "learned_range" if out == 2 * channels else "fixed_small"
    return _one_of(scheduler, "variance_type", VARIANCES, "fixed_small")


def _one_of(settings: dict[str, Any], name: str, table: dict[str, str], default: str) -> Any:  # noqa: ANN401
    value = settings.get(name, default)
    if value not in table:
        raise NelboError(f"its scheduler has {name} {value!r}, expected one of {', '.join(table)}")
    return table[value]


def _size(net: dict[str, Any]) -> tuple[int, int]:
    size = net.get("sample_size")
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(isinstance(s, int) and s > 0 for s in sides):
        raise NelboError(f"its U-Net has sample_size {size!r}: write its images' height and width into {NET}")
    stride = 2 ** (len(net.get("block_out_channels", ())) - 1)
    if any(side % stride for side in sides):
        near = " or ".join(str(size) for size in (sides[0] // stride * stride, -(-sides[0] // stride) * stride) if size)
        raise NelboError(
            f"its U-Net has sample_size {size!r}, and it halves images to 1/{stride}, so their sides must be multiples "
            f"of {stride}: write the size of its images into {NET}, such as {near}"
        )
    return (sides[0], sides[1])


def _clip(scheduler: dict[str, Any]) -> float | None:
    if not scheduler.get("clip_sample", True):
        return None
    clip = scheduler.get("clip_sample_range", 1.0)
    if not isinstance(clip, int | float) or not clip > 0:
        raise NelboError(f"its scheduler has clip_sample_range {clip!r}, expected a number above 0")
    return float(clip)


def _n_classes(net: dict[str, Any]) -> int:
    if net.get("class_embed_type") is not None:
        raise NelboError(f"its U-Net is conditioned on a {net['class_embed_type']}, not on classes: {_DDPM_ONLY}")
    return net.get("num_class_embeds") or 0


def _betas(library: ModuleType, settings: dict[str, Any]) -> Float[Tensor, " n"]:
    """Returns the betas that diffusers itself computes from a scheduler's settings."""
    settings = {name: value for name, value in settings.items() if name[0] != "_" and name != "timetable"}
    try:
        scheduler = library.DDPMScheduler.from_config(settings)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise NelboError(f"its scheduler's settings are refused by diffusers: {one_line(error, 200)}") from None
    return checked(scheduler.betas)


def _unet(library: ModuleType, folder: Path) -> nn.Module:
    """Returns the U-Net with its weights, each filled and finite."""
    options = {"local_files_only": True, "low_cpu_mem_usage": False, "torch_dtype": torch.float32}
    try:
        options["variant"] = _weights_variant(folder)
        with _silent(library):
            unet, report = library.UNet2DModel.from_pretrained(str(folder), output_loading_info=True, **options)
    except NelboError:
        raise
    except Exception as error:  # Whatever a foreign library raises on damaged input.
        raise NelboError(f"its U-Net cannot be loaded: {one_line(error, 200)}") from None
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:
            raise NelboError(f"its weights do not fit {NET}, {problem.replace('_', ' ')}: {sorted(report[problem])[0]}")
    broken = [name for name, weight in unet.state_dict().items() if not bool(weight.isfinite().all())]
    if broken:
        raise NelboError(f"its weights are damaged: {broken[0]} is not finite")
    return unet


def _weights_variant(folder: Path) -> str | None:
    """Returns which variant of the weights there is, such as ``fp16``; None for the plain ones.

    Raises:
        NelboError: If there are several and no plain ones.
    """
    names = [path.name for path in folder.glob(f"{WEIGHTS}*")]
    if not names:
        raise NelboError(f"its U-Net has no weights: copy {WEIGHTS}.safetensors beside its {NET}")
    if any(re.fullmatch(rf"{WEIGHTS}\.(safetensors|bin)(\.index\.json)?", name) for name in names):
        return None
    found = {m[1] for name in names if (m := re.fullmatch(rf"{WEIGHTS}\.([\w-]+)\.(safetensors|bin)", name))}
    if len(found) > 1:
        raise NelboError(
            f"its U-Net has the variants {', '.join(sorted(found))} and no plain weights: keep one of them"
        )
    return found.pop() if found else None


@contextmanager
def _silent(library: ModuleType) -> Iterator[None]:
    """Keeps diffusers from logging what is reported here in one line."""
    logging = library.utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
