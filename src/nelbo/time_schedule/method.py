"""How a bound is measured: the whole chain walked, or single steps drawn evenly or where the cost lies."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from nelbo.data.images import Images
from nelbo.diffusion.bound import MAX_DRAWN, chain_levels
from nelbo.diffusion.importance import Profile
from nelbo.errors import NelboError
from nelbo.models.interface import DiffusionModel
from nelbo.runtime.agreement import agree
from nelbo.runtime.device import Precision
from nelbo.runtime.processes import World
from nelbo.time_schedule.error_table import ErrorTable
from nelbo.time_schedule.pilot import n_pilot_calls, pilot
from nelbo.time_schedule.profile import bundled_table, check_table_model, profile_of
from nelbo.time_schedule.schedule import TimeSchedule, plain_schedule

Drawn = Literal["evenly", "pilot", "table", "all"]


@dataclass(frozen=True, eq=False)
class Method:
    """What one pass over an image does.

    Attributes:
        n_steps: T of the chain; None for continuous time, or for single steps of a discrete-time model's whole chain.
        n_calls: Network calls an image.
        drawn: How its step is drawn: ``evenly``, by a ``pilot`` pass or by an error ``table``; ``all`` of a walk.
        schedule: The chain to walk; None where a single step is drawn.
        profile: Where the cost lies; None for even draws.
        n_pilot_calls: What the pilot pass has taken.
        has_own_noise: Whether each step of the walk has its own noise; else one serves all, as in an error table.
    """

    n_steps: int | None
    n_calls: int
    drawn: Drawn
    schedule: TimeSchedule | None = None
    profile: Profile | None = None
    n_pilot_calls: int = 0
    has_own_noise: bool = False

    @property
    def n_ticks(self) -> int:
        """How often a pass reports progress: at every step of a walk."""
        return 1 if self.schedule is None else self.schedule.n_steps


def choose_method(
    model: DiffusionModel,
    data: Images,
    n_steps: int | TimeSchedule | Literal["all"] | None,
    table: ErrorTable | None,
    seed: int,
    batch_size: int,
    precision: Precision,
    world: World,
) -> Method:
    """Returns how to measure the bound of a model on images, after a pilot pass where one is needed.

    A discrete-time model has its steps drawn by its error table, or by a pilot pass; one of continuous time by its
    table, or by that which comes with it, else evenly in the time of its noise schedule.
    """
    known = agree(world, lambda: _known(model, n_steps, table))
    if isinstance(known, Method):
        return known
    found = pilot(model, data, known, seed, batch_size, precision, world)
    n_pilot = n_pilot_calls(len(data), len(found.gammas))
    n_calls = calls_per_pass(model, n_steps)
    assert not isinstance(n_steps, TimeSchedule | str), "walked"
    return Method(n_steps, n_calls, "pilot", profile=found, n_pilot_calls=n_pilot)


def _known(
    model: DiffusionModel, n_steps: int | TimeSchedule | Literal["all"] | None, table: ErrorTable | None
) -> Method | Float[Tensor, " n"]:
    """Returns the method where it needs no pilot pass, else the levels over which to make one."""
    n_calls = calls_per_pass(model, n_steps)
    if isinstance(n_steps, TimeSchedule | str):
        if table is not None:
            raise NelboError("an error table says which single steps to draw, and here all are walked: leave it out")
        if isinstance(n_steps, TimeSchedule):
            return Method(n_steps.n_steps, n_calls, "all", n_steps)
        return Method(n_calls, n_calls, "all", plain_schedule(model, n_calls), has_own_noise=True)
    n_levels = n_steps if model.gammas is None else n_steps or len(model.gammas)
    if (model.gammas is None and (n_levels or 0) > MAX_DRAWN) or (model.gammas is not None and n_levels == 1):
        return Method(n_steps, n_calls, "evenly")
    levels = None if n_levels is None else chain_levels(model.given(), n_levels).detach().cpu()
    if table is not None:
        check_table_model(table, model)
    elif model.gammas is None:
        table = bundled_table(model)
    if table is not None:
        return Method(n_steps, n_calls, "table", profile=profile_of(table, model.reverse.name, levels))
    if model.gammas is None or levels is None:
        return Method(n_steps, n_calls, "evenly")
    return levels


def calls_per_pass(model: DiffusionModel, n_steps: int | TimeSchedule | Literal["all"] | None) -> int:
    """Returns the network calls of one pass over an image."""
    if isinstance(n_steps, TimeSchedule):
        return n_steps.n_steps
    if n_steps == "all":
        return 0 if model.gammas is None else len(model.gammas)  # Continuous time has no such chain.
    has_steps = not (model.gammas is not None and n_steps == 1)
    return int(has_steps) + int(model.exit_std is not None)
