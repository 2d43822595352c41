"""Where the plan of an archive is: in its header, or, as the same bytes, in the frozen model's file.

A spectral plan is some 20 kB, which a small archive cannot afford; so the plans of common budgets come with the model.
"""

import struct
from dataclasses import dataclass

import numpy as np
import torch

from nelbo.codec.plan import Plan, unpack_plan
from nelbo.errors import CorruptArchiveError, NelboError
from nelbo.integer.frozen_model import FrozenModel
from nelbo.integer.tensors import tensor_of

EMBEDDED, _NAMED = b"\0", b"\1"
_PREFIX = "plan."


@dataclass(frozen=True, eq=False)
class StoredPlan:
    """A plan, and how an archive's header says which it is.

    Attributes:
        plan: The plan.
        gammas: Its levels.
        kernel: The reverse kernel.
        kappa: What its lattices were made with.
        reference: What the header holds of it.
    """

    plan: Plan
    gammas: tuple[float, ...]
    kernel: str
    kappa: float
    reference: bytes


def with_plans(frozen: FrozenModel, plans: dict[int, StoredPlan]) -> FrozenModel:
    """Returns a frozen model whose file also holds the plans of some budgets."""
    tensors = dict(frozen.tensors)
    for budget, stored in plans.items():
        body = struct.pack("<d", stored.kappa) + stored.kernel.encode().ljust(16, b"\0") + stored.plan.pack()
        tensors[f"{_PREFIX}{budget}"] = torch.from_numpy(np.frombuffer(body, np.uint8).copy())
        tensors[f"{_PREFIX}{budget}.gammas"] = torch.tensor(stored.gammas, dtype=torch.float64)
    return FrozenModel(frozen.header, tensors)


def budgets_of(frozen: FrozenModel) -> list[int]:
    """Returns the budgets whose plans come with a frozen model."""
    names = (name.removeprefix(_PREFIX) for name in frozen.tensors if name.startswith(_PREFIX))
    return sorted(int(name) for name in names if name.isdecimal())


def named_plan(frozen: FrozenModel, budget: int) -> StoredPlan:
    """Returns the plan of a budget that comes with a frozen model.

    Raises:
        NelboError: If none does.
    """
    name = f"{_PREFIX}{budget}"
    if name not in frozen.tensors or f"{name}.gammas" not in frozen.tensors:
        there = ", ".join(map(str, budgets_of(frozen))) or "none"
        raise NelboError(f"the model comes with no plan of {budget} steps ({there}): give a schedule's file to --steps")
    try:
        body = tensor_of(frozen.tensors, name, torch.uint8, (None,)).numpy().tobytes()
        gammas = tuple(tensor_of(frozen.tensors, f"{name}.gammas", torch.float64, (None,)).tolist())
        kappa, kernel = struct.unpack_from("<d16s", body)
        plan, kernel = unpack_plan(body[24:], len(gammas), frozen.image_shape), kernel.rstrip(b"\0").decode("ascii")
    except (NelboError, struct.error, UnicodeDecodeError) as error:
        raise NelboError(f"the model's plan of {budget} steps is damaged: {error}") from None
    return StoredPlan(plan, gammas, kernel, kappa, _NAMED + str(budget).encode())


def as_named(stored: StoredPlan, frozen: FrozenModel) -> StoredPlan:
    """Returns the same plan by its name, where it is one of those that come with a frozen model."""
    for budget in budgets_of(frozen):
        named = named_plan(frozen, budget)
        same_chain = (named.gammas, named.kernel, named.kappa) == (stored.gammas, stored.kernel, stored.kappa)
        if same_chain and EMBEDDED + named.plan.pack() == stored.reference:
            return named
    return stored


def find_plan(reference: bytes, gammas: tuple[float, ...], frozen: FrozenModel) -> Plan:
    """Returns the plan that an archive's header holds or names.

    Raises:
        CorruptArchiveError: If it is damaged, or the model has none of that name.
    """
    if reference.startswith(EMBEDDED):
        return unpack_plan(reference[1:], len(gammas), frozen.image_shape)
    name = reference[1:].decode("ascii", "replace")
    if not reference.startswith(_NAMED) or not name.isdecimal() or len(name) > 6:
        raise CorruptArchiveError("the header neither holds nor names a plan of the chain: the file is damaged")
    try:
        stored = named_plan(frozen, int(name))
    except NelboError:
        raise CorruptArchiveError(f"the model has no plan of {name} steps: the file is damaged") from None
    if stored.gammas != gammas:
        raise CorruptArchiveError(f"the model's plan of {name} steps has other levels: the file is damaged")
    return stored.plan
