"""What all settings share: they are checked when they are made, and never change."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A setting that cannot change and has no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
