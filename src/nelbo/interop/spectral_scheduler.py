r"""A scheduler for diffusers' pipelines that walks any time schedule: spectral and analytic kernels, any exit.

``SpectralScheduler`` takes the place of a ``DDPMPipeline``'s scheduler; nothing else changes, and it is saved and
loaded with the pipeline. Its settings hold the schedules themselves, one for each number of steps K. A step is the
schedule's reverse kernel in our units, :mod:`nelbo.interop.units`; the last one leaves by the schedule's residual
decoder, or ends at the denoised image. The network's output is read as by the model that the schedules are of.

The class derives from one of diffusers, so it is made when it is first asked for: this module loads without diffusers.
"""

import base64
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from nelbo.diffusion import gaussian
from nelbo.diffusion.prediction import to_noise
from nelbo.errors import NelboError
from nelbo.interop.ddpm import DDPM
from nelbo.interop.optional import installed
from nelbo.interop.units import DEFAULT_UNITS, PIXEL_SCALE
from nelbo.time_schedule.schedule import TimeSchedule

NAME = "SpectralScheduler"


def spectral_scheduler(model: DDPM, schedules: Mapping[int, TimeSchedule]) -> Any:  # noqa: ANN401
    """Returns a scheduler that walks a model's time schedules inside a pipeline of diffusers.

    Example::

        pipeline.scheduler = spectral_scheduler(model, {8: schedules[8], 16: schedules[16]})
        images = pipeline(num_inference_steps=8).images

    Args:
        model: The model, of the pipeline's network and betas.
        schedules: For each number of steps K, a schedule of K network calls.

    Raises:
        NelboError: If diffusers is not installed, a schedule is another model's or of another number of steps, or the
            model's pixels are not those of diffusers.
    """
    if not schedules:
        raise NelboError("there are no schedules: give at least one, by its number of steps")
    if model.units != DEFAULT_UNITS:
        raise NelboError(f"diffusers' pipelines have pixels in [-1, 1], the model has {model.units.range}")
    for budget, schedule in schedules.items():
        schedule.check_model(model)
        if schedule.n_steps != int(budget):
            raise NelboError(f"a schedule of {schedule.n_steps} steps is given for {budget} steps")
    packed = {str(budget): _packed(schedule) for budget, schedule in schedules.items()}
    config = model.config
    return _scheduler_class()(model.n_timesteps, config.prediction, config.clip, packed)


def _packed(schedule: TimeSchedule) -> str:
    """Returns a schedule as text, what its reverse kernels hold in float32."""
    schedule = replace(schedule, tensors={name: tensor.float() for name, tensor in schedule.tensors.items()})
    with tempfile.TemporaryDirectory() as folder:
        schedule.save(Path(folder) / "schedule")
        return base64.b64encode((Path(folder) / "schedule").read_bytes()).decode()


def _unpacked(text: str) -> TimeSchedule:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "schedule").write_bytes(base64.b64decode(text))
        return TimeSchedule.load(Path(folder) / "schedule")


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Makes the class when diffusers asks for it by name; its loader also looks here for the base class."""
    if name == "SchedulerMixin":
        return installed("diffusers", "diffusers").SchedulerMixin
    if name != NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _scheduler_class()


@cache
def _scheduler_class() -> Any:  # noqa: ANN401
    diffusers = installed("diffusers", "diffusers")

    class SpectralScheduler(diffusers.SchedulerMixin, diffusers.ConfigMixin):
        """Ancestral sampling along stored time schedules; see :mod:`nelbo.interop.spectral_scheduler`."""

        order = 1

        @diffusers.configuration_utils.register_to_config
        def __init__(
            self,
            num_train_timesteps: int = 1000,
            prediction: str = "eps",
            clip: float | None = 1.0,
            schedules: dict[str, str] | None = None,
        ) -> None:
            self.init_noise_sigma = 1.0
            self.schedule: TimeSchedule | None = None
            self.timesteps = torch.arange(num_train_timesteps).flip(0)

        def scale_model_input(self, sample: torch.Tensor, timestep: int | None = None) -> torch.Tensor:
            """Returns the latent as it is."""
            return sample

        def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
            """Takes the stored schedule of a number of steps."""
            stored = self.config.schedules or {}
            if str(num_inference_steps) not in stored:
                known = ", ".join(stored)
                raise NelboError(f"no schedule is stored for {num_inference_steps} steps: take {known}")
            self.schedule = _unpacked(stored[str(num_inference_steps)])
            self.num_inference_steps = num_inference_steps
            self.timesteps = torch.tensor(self.schedule.timesteps, device=device).flip(0)

        def step(
            self,
            model_output: torch.Tensor,
            timestep: int | torch.Tensor,
            sample: torch.Tensor,
            generator: torch.Generator | list[torch.Generator] | None = None,
            return_dict: bool = True,
        ) -> Any:  # noqa: ANN401
            """Draws the step to the next level of the schedule, or leaves for the image."""
            assert self.schedule is not None, "set_timesteps comes first"
            schedule = self.schedule
            assert schedule.timesteps is not None
            level = schedule.timesteps.index(int(timestep))
            noise = diffusers.utils.torch_utils.randn_tensor(sample.shape, generator, sample.device, sample.dtype)
            before, y_hat = _step(
                schedule, level, sample, model_output, noise, self.config.prediction, self.config.clip
            )
            if not return_dict:
                return before, y_hat
            return diffusers.schedulers.scheduling_ddpm.DDPMSchedulerOutput(before, y_hat)

        def __len__(self) -> int:
            return self.config.num_train_timesteps

    SpectralScheduler.__qualname__ = NAME  # It is found under this name, by pickle too.
    return SpectralScheduler


def _step(
    schedule: TimeSchedule,
    level: int,
    latent: torch.Tensor,
    output: torch.Tensor,
    noise: torch.Tensor,
    prediction: str,
    clip: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the next latent, or the image, and the denoised image, all in the pipeline's units."""
    gammas, units = schedule.gammas.to(latent.device), DEFAULT_UNITS
    gamma = gammas[level].expand(len(latent))
    theirs = gamma + units.gamma_shift
    a, b = gaussian.alpha(theirs), gaussian.sigma(theirs)
    z = gaussian.over_image(gaussian.sigma(gamma) / b, latent) * latent
    output, range_ = output[:, : latent.shape[1]], output[:, latent.shape[1] :]
    nu = (range_ + 1) / 2 if range_.shape[1] else None
    eps_hat = to_noise(prediction, output, latent, theirs)
    eps_hat = units.clipped(eps_hat, latent, a, b, clip)
    x_hat = gaussian.denoised(z, eps_hat, gamma)
    if level > 0:
        gamma_s = gammas[level - 1].expand(len(latent))
        z_s = schedule.kernel(level - 1).step(z, eps_hat, gamma_s, gamma, noise, nu)
        theirs_s = gamma_s + units.gamma_shift
        before = units.latents(z_s, gamma_s, gaussian.alpha(theirs_s), gaussian.sigma(theirs_s))
    elif schedule.exit is None:
        before = PIXEL_SCALE * x_hat
    else:
        before = schedule.exit.sample(x_hat, noise).to(latent.dtype) / 127.5 - 1
    return before.to(latent.dtype), (PIXEL_SCALE * x_hat).to(latent.dtype)
