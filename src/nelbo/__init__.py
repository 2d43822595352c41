"""Variational diffusion models, judged by one number: the negative evidence lower bound in bits per dimension."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nelbo.codec.codec import Codec as Codec
    from nelbo.data.arrays import from_array as from_array
    from nelbo.data.images import Images as Images
    from nelbo.data.open import open_images as open_images
    from nelbo.diffusion.bound import Bound as Bound
    from nelbo.diffusion.gaussian_entry import ImageMoments as ImageMoments
    from nelbo.errors import NelboError as NelboError
    from nelbo.evaluation import Evaluation as Evaluation
    from nelbo.evaluation import evaluate as evaluate
    from nelbo.interop.any_model import load as load
    from nelbo.interop.callable import from_callable as from_callable
    from nelbo.interop.denoiser import from_denoiser as from_denoiser
    from nelbo.models.config import ModelConfig as ModelConfig
    from nelbo.models.interface import DiffusionModel as DiffusionModel
    from nelbo.models.moments import image_moments as image_moments
    from nelbo.models.vdm import VDM as VDM
    from nelbo.ode import ode_likelihood as ode_likelihood
    from nelbo.sampling import sample as sample
    from nelbo.time_schedule.error_table import ErrorTable as ErrorTable
    from nelbo.time_schedule.gather import error_table as error_table
    from nelbo.time_schedule.optimise import optimal_schedules as optimal_schedules
    from nelbo.time_schedule.schedule import TimeSchedule as TimeSchedule

_HOMES = {
    "Bound": "diffusion.bound",
    "Codec": "codec.codec",
    "DiffusionModel": "models.interface",
    "ErrorTable": "time_schedule.error_table",
    "Evaluation": "evaluation",
    "ImageMoments": "diffusion.gaussian_entry",
    "Images": "data.images",
    "ModelConfig": "models.config",
    "NelboError": "errors",
    "TimeSchedule": "time_schedule.schedule",
    "VDM": "models.vdm",
    "error_table": "time_schedule.gather",
    "evaluate": "evaluation",
    "from_array": "data.arrays",
    "from_callable": "interop.callable",
    "from_denoiser": "interop.denoiser",
    "image_moments": "models.moments",
    "load": "interop.any_model",
    "ode_likelihood": "ode",
    "open_images": "data.open",
    "optimal_schedules": "time_schedule.optimise",
    "sample": "sampling",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Imports a public name when it is first used, so that the command line answers without loading torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'nelbo' has no attribute {name!r}")
    return getattr(import_module(f"nelbo.{_HOMES[name]}"), name)
