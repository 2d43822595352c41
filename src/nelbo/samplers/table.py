"""The solvers, one table: a name for the command line, and how to make one."""

from collections.abc import Mapping

from nelbo.errors import NelboError
from nelbo.samplers.ddim import DDIM
from nelbo.samplers.dpm_solver import DPMSolver2M, DPMSolver3M, DPMSolverSDE
from nelbo.samplers.heun import Heun
from nelbo.samplers.solver import Solver

SOLVERS: dict[str, type[Solver]] = {
    solver.name: solver for solver in (DPMSolver2M, DPMSolver3M, DPMSolverSDE, DDIM, Heun)
}

DEFAULT = DPMSolver2M.name


def make_solver(name: str, settings: Mapping[str, float] | None = None) -> Solver:
    """Returns a solver by name, with its own settings such as DDIM's ``eta``.

    Raises:
        NelboError: If there is none of that name, or it has no such setting.
    """
    if name not in SOLVERS:
        raise NelboError(f"no sampler {name!r}; there are ancestral, {', '.join(SOLVERS)}")
    fields = set(getattr(SOLVERS[name], "__dataclass_fields__", ()))
    for setting in settings or {}:
        if setting not in fields:
            raise NelboError(f"the sampler {name} has no setting {setting!r}; it has {', '.join(fields) or 'none'}")
    return SOLVERS[name](**(settings or {}))
