r"""A scheduler for diffusers' pipelines that stops at stored timesteps, ``{K: timesteps}`` for any number of steps K.

``TimetableScheduler`` is a ``DDPMScheduler`` with one setting more, ``timetable``. In a ``DDPMPipeline`` it takes the
place of the scheduler that was there, nothing else changes, and it is saved and loaded with the pipeline. What it
repairs on the way:

- Signal and noise are products of the betas in float64. diffusers multiplies in float32, and the variance of a step at
  the clean end, a small difference of numbers near 1, comes out wrong in the fourth digit.
- A pair of timesteps is the stored neighbours, with the variance of that pair.
- The last step leaves for the image itself: its mean, with no noise. When the list ends above 0, diffusers adds noise
  of standard deviation :math:`\sqrt{1 - \bar\alpha_t}` there with ``fixed_large``, and some with ``learned_range``.
- ``fixed_large_log``, which in diffusers takes the root of a logarithm and returns NaN, is ``fixed_large``.

The class derives from one of diffusers, so it is made when it is first asked for: this module loads without diffusers.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch

from nelbo.errors import NelboError
from nelbo.interop.ddpm import REVERSE_KERNELS
from nelbo.interop.optional import installed
from nelbo.time_schedule.schedule import TimeSchedule

NAME = "TimetableScheduler"
VARIANCES = {  # Ours, by what diffusers calls them.
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned_range": "learned_range",
}


def timetable_scheduler(scheduler: Any, timetable: Mapping[int, Sequence[int] | TimeSchedule]) -> Any:  # noqa: ANN401
    """Returns a scheduler with the settings of another that takes K steps at the stored timesteps.

    Example::

        pipeline.scheduler = timetable_scheduler(pipeline.scheduler, {8: [999, 812, ...]})
        images = pipeline(num_inference_steps=8).images

    Args:
        scheduler: A DDPMScheduler.
        timetable: For each number of steps K, its K timesteps, strictly descending, or a schedule of K steps under the
            kernel that the scheduler has by its ``variance_type``.

    Raises:
        NelboError: If diffusers is not installed, the timetable is no such table, or a schedule has another kernel or
            last step than the scheduler.
    """
    kernel = REVERSE_KERNELS[variance_of(scheduler.config)]
    table = {str(budget): _timesteps(chain, kernel) for budget, chain in timetable.items()}
    check_timetable({int(budget): chain for budget, chain in table.items()}, len(scheduler.betas))
    return _scheduler_class().from_config(scheduler.config, timetable=table)


def variance_of(config: Mapping[str, Any]) -> str:
    """Returns our name of the variance that a scheduler's settings stand for; beta tilde where they say nothing."""
    name = config.get("variance_type") or "fixed_small"
    if name not in VARIANCES:
        raise NelboError(f"the scheduler has variance_type {name!r}, expected one of {', '.join(VARIANCES)}")
    return VARIANCES[name]


def check_walked(schedule: TimeSchedule, kernel: str) -> None:
    """Raises NelboError unless a schedule has the kernel of a pipeline, and the model's own last step."""
    ways = [f"steps with the {schedule.reverse} kernel"] if schedule.reverse != kernel else []
    ways += [f"ends with the {schedule.exit.kind} exit"] if schedule.exit is not None else []
    if ways:
        raise NelboError(
            f"the schedule {' and '.join(ways)}, and the pipeline walks the {kernel} kernel to the model's own last "
            "step: take one of nelbo.interop.export.pipeline_schedules, or run this one in a SpectralScheduler"
        )


def _timesteps(chain: Sequence[int] | TimeSchedule, kernel: str) -> list[int]:
    if not isinstance(chain, TimeSchedule):
        return list(chain)
    check_walked(chain, kernel)
    if chain.timesteps is None:
        raise NelboError("the schedule is one of continuous time, and a pipeline has timesteps")
    return list(chain.timesteps[::-1])


def check_timetable(timetable: Mapping[int, Sequence[int]], n_timesteps: int) -> None:
    """Raises NelboError unless each budget K has K timesteps, strictly descending, of those there are."""
    if not timetable:
        raise NelboError("the timetable is empty: give at least one number of steps")
    for budget, timesteps in timetable.items():
        if len(timesteps) != int(budget):
            raise NelboError(f"the timetable holds {len(timesteps)} timesteps for {budget} steps")
        falls = all(late < early for early, late in pairwise(timesteps))
        if not falls or not timesteps or not 0 <= timesteps[-1] <= timesteps[0] < n_timesteps:
            raise NelboError(
                f"the timesteps of {budget} steps must descend strictly within 0 .. {n_timesteps - 1}, got "
                f"{list(timesteps)!r:.60}"
            )


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Makes the class when diffusers, or anyone, asks for it by name.

    A pipeline's loader also looks here for the base classes that it can load, and SchedulerMixin is that of ours.
    """
    if name == "SchedulerMixin":
        return installed("diffusers", "diffusers").SchedulerMixin
    if name != NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _scheduler_class()


@cache
def _scheduler_class() -> Any:  # noqa: ANN401
    diffusers = installed("diffusers", "diffusers")

    class TimetableScheduler(diffusers.DDPMScheduler):
        """DDPM sampling at stored timesteps; see :mod:`nelbo.interop.timetable_scheduler`."""

        @diffusers.configuration_utils.register_to_config
        def __init__(  # diffusers reads the settings from this signature, so it cannot be shortened.
            self,
            num_train_timesteps: int = 1000,
            beta_start: float = 0.0001,
            beta_end: float = 0.02,
            beta_schedule: str = "linear",
            trained_betas: list[float] | None = None,
            variance_type: str = "fixed_small",
            clip_sample: bool = True,
            prediction_type: str = "epsilon",
            thresholding: bool = False,
            dynamic_thresholding_ratio: float = 0.995,
            clip_sample_range: float = 1.0,
            sample_max_value: float = 1.0,
            timestep_spacing: str = "leading",
            steps_offset: int = 0,
            rescale_betas_zero_snr: bool = False,
            timetable: dict[str, list[int]] | None = None,
        ) -> None:
            diffusers.DDPMScheduler.__init__.__wrapped__(  # Unwrapped, it registers no settings of its own.
                self,
                num_train_timesteps,
                beta_start,
                beta_end,
                beta_schedule,
                trained_betas,
                variance_type,
                rescale_betas_zero_snr=rescale_betas_zero_snr,
            )
            self.alphas_cumprod = torch.cumprod(1 - self.betas.double(), dim=0)

        def set_timesteps(
            self,
            num_inference_steps: int | None = None,
            device: str | torch.device | None = None,
            timesteps: list[int] | None = None,
        ) -> None:
            """Takes the stored timesteps of a number of steps, all timesteps, or those that are given."""
            if timesteps is None:
                timesteps = self._stored(num_inference_steps)
            super().set_timesteps(device=device, timesteps=timesteps)
            self.num_inference_steps = len(timesteps)

        def _stored(self, n_steps: int | None) -> list[int]:
            table, n_timesteps = self.config.timetable or {}, len(self.betas)
            if str(n_steps) in table:
                return list(table[str(n_steps)])
            if n_steps == n_timesteps:
                return list(reversed(range(n_timesteps)))
            raise NelboError(f"no timesteps are stored for {n_steps} steps: take {', '.join(table)} or {n_timesteps}")

        def step(
            self,
            model_output: torch.Tensor,
            timestep: int | torch.Tensor,
            sample: torch.Tensor,
            generator: torch.Generator | list[torch.Generator] | None = None,
            return_dict: bool = True,
        ) -> Any:  # noqa: ANN401
            """Draws the step to the next stored timestep; the last one ends at the denoised image."""
            before, x_hat = super().step(model_output, timestep, sample, generator, return_dict=False)
            if self.previous_timestep(timestep) < 0:
                before = x_hat
            if not return_dict:
                return before, x_hat
            return diffusers.schedulers.scheduling_ddpm.DDPMSchedulerOutput(before, x_hat)

        def _get_variance(
            self,
            t: int | torch.Tensor,
            predicted_variance: torch.Tensor | None = None,
            variance_type: str | None = None,
        ) -> torch.Tensor:
            kind = variance_type or self.config.variance_type
            kind = "fixed_large" if kind == "fixed_large_log" else kind
            return super()._get_variance(t, predicted_variance, kind)

    TimetableScheduler.__qualname__ = NAME  # It is found under this name, by pickle too.
    return TimetableScheduler
