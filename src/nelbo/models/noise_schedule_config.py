"""The settings of a noise schedule: its name among ``NOISE_SCHEDULES`` and the arguments of its constructor.

They follow from the constructor's signature, so that a new noise schedule is one class and one entry of its table.

Examples:
    >>> settings_of(NOISE_SCHEDULES["cosine"])(gamma_0=-6).model_dump_json()
    '{"type":"cosine","gamma_0":-6.0,"gamma_1":5.0}'
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BeforeValidator, SerializeAsAny, create_model

from nelbo.diffusion.noise_schedule import NOISE_SCHEDULES, NoiseSchedule
from nelbo.models.settings import Frozen


class NoiseScheduleConfig(Frozen):
    """The settings of some noise schedule; its arguments are fields of the class that :func:`settings_of` returns."""

    type: str

    def build(self) -> NoiseSchedule:
        """Returns the schedule, at its initialisation if it is learned.

        Raises:
            NelboError: If its arguments make no increasing function.
        """
        arguments = {name: getattr(self, name) for name in type(self).model_fields if name != "type"}
        return NOISE_SCHEDULES[self.type](**arguments)


@functools.cache
def settings_of(schedule: type[NoiseSchedule]) -> Callable[..., NoiseScheduleConfig]:
    """Returns the class of a noise schedule's settings: ``type`` and the arguments of its constructor, checked."""
    fields: dict[str, Any] = {"type": (Literal[schedule.name], schedule.name)}
    for name, parameter in inspect.signature(schedule).parameters.items():
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = _immutable(parameter.annotation), default
    return create_model(f"{schedule.__name__}Config", __base__=NoiseScheduleConfig, **fields)


def _immutable(annotation: object) -> object:
    return tuple[get_args(annotation)[0], ...] if get_origin(annotation) is Sequence else annotation


def _chosen(value: object) -> object:
    """Returns settings of the class that their ``type`` asks for; pydantic's union would not know later members."""
    if not isinstance(value, Mapping):
        return value
    name = value.get("type")
    if not isinstance(name, str) or name not in NOISE_SCHEDULES:
        raise ValueError(f"the type must be one of {', '.join(NOISE_SCHEDULES)}")
    return settings_of(NOISE_SCHEDULES[name])(**value)


OneNoiseSchedule = Annotated[SerializeAsAny[NoiseScheduleConfig], BeforeValidator(_chosen)]
"""The field of a configuration that holds the settings of one noise schedule, of any type."""
