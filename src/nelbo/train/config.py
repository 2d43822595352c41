"""What a training run is: one frozen configuration, whose durations are counted in images."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from nelbo.diffusion.weighting import WEIGHTINGS
from nelbo.errors import NelboError
from nelbo.models.config import Frozen, ModelConfig, first_problem
from nelbo.models.interface import MAX_STEPS

_Rate = Annotated[float, Field(ge=0, lt=1)]


def _known_weighting(name: str) -> str:
    if name not in WEIGHTINGS:
        raise ValueError(f"no such weighting; there are {', '.join(WEIGHTINGS)}")
    return name


class TrainConfig(Frozen):
    """Everything that decides the result of a run, but for the data.

    Attributes:
        model: What is trained.
        n_steps: T of the bound that is minimised; None for continuous time.
        weighting: The weight on each noise level, of :mod:`nelbo.diffusion.weighting`; ``elbo`` is the bound.
        gamma_sampling: Whether noise levels are drawn as the noise schedule has them, or where the loss is; see
            :mod:`nelbo.train.importance`.
        n_images: Training images to see in all, repeats included.
        batch_size: Images a step, over all processes.
        optimizer: What moves the weights: AdamW, or Muon for the kernels inside the network and AdamW for the rest.
        learning_rate: Peak learning rate, on AdamW's scale.
        interior_rate: Learning rate of a learned noise schedule's interior, over ``learning_rate``; a schedule is
            learned in fewer steps than a network.
        decay: What the learning rate does after the warm-up: stay, or fall to zero along a line or a cosine.
        warmup_images: Images over which the learning rate rises linearly from zero.
        betas: Decay rates of AdamW's moments.
        weight_decay: Share of the weights taken away each step, times the learning rate.
        clip_norm: Largest norm of the gradient of the bound in bits per dimension; None for no clipping.
        ema_rate: Decay of the weight average, reached gradually.
        flip: Whether images are mirrored at random, without telling the network; ``model.augment`` tells it.
        n_held_out: Images at the end of the training set that are kept for choosing, where no test set is given.
        seed: The run's randomness.
        precision: ``auto``, ``float32`` or ``bfloat16``.
    """

    model: ModelConfig = ModelConfig()
    n_steps: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    weighting: Annotated[str, AfterValidator(_known_weighting)] = "elbo"
    gamma_sampling: Literal["schedule", "adaptive"] = "schedule"
    n_images: int = Field(ge=1)
    batch_size: int = Field(default=128, ge=1)
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(default=2e-4, gt=0)
    interior_rate: float = Field(default=1.0, gt=0)
    decay: Literal["constant", "linear", "cosine"] = "constant"
    warmup_images: int = Field(default=12800, ge=0)
    betas: tuple[_Rate, _Rate] = (0.9, 0.99)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float | None = Field(default=1.0, gt=0)
    ema_rate: _Rate = 0.9999
    flip: bool = False
    n_held_out: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    @model_validator(mode="after")
    def _mirrors_once(self) -> "TrainConfig":
        if self.flip and "flip" in self.model.augment:
            raise ValueError("flip mirrors without telling the network, model.augment tells it: choose one of them")
        return self

    @property
    def is_weighted(self) -> bool:
        """Whether the loss is another than the bound, or its noise levels are drawn otherwise."""
        return self.weighting != "elbo" or self.gamma_sampling != "schedule"

    @model_validator(mode="after")
    def _weights_a_fixed_continuous_loss(self) -> "TrainConfig":
        if not self.is_weighted:
            return self
        if self.n_steps is not None:
            raise ValueError("weighting and gamma_sampling are for continuous time: set n_steps=null")
        if self.model.noise_schedule.build().is_learned:
            raise ValueError(
                "weighting and gamma_sampling need a fixed noise schedule, which a weighted loss would shrink or "
                "importance sampling replaces: choose one that is not learned"
            )
        return self

    @property
    def n_updates(self) -> int:
        """Optimiser steps of the whole run; the last one may see images past ``n_images``."""
        return -(-self.n_images // self.batch_size)


def override(config: TrainConfig, settings: Sequence[str]) -> TrainConfig:
    """Returns a configuration with some fields changed.

    Args:
        config: Where to start.
        settings: ``field=value`` each, with dots into nested fields and values as JSON (a bare word is a string).

    Raises:
        NelboError: If a setting is no such pair, names an unknown field or has a bad value.
    """
    fields = config.model_dump(mode="json")
    for setting in settings:
        _assign(fields, setting)
    try:
        return TrainConfig.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        raise NelboError(f"bad setting: {first_problem(error)}") from None


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns one line for each field in which two configurations, as nested dictionaries, differ."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {json.dumps(before)} -> {json.dumps(after)}")
    return lines


def _assign(fields: Any, setting: str) -> None:  # noqa: ANN401
    path, separator, value = setting.partition("=")
    *parents, name = path.split(".")
    for parent in parents:
        fields = fields.get(parent) if isinstance(fields, dict) else None
    if not separator or not isinstance(fields, dict) or name not in fields:
        raise NelboError(f"--set takes FIELD=VALUE with a field of the configuration, got {setting!r}; see --dry-run")
    fields[name] = _parsed(value)


def _parsed(value: str) -> object:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
