"""What a search found, for people and for programs: a table, JSON and a figure beside the rules of thumb."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nelbo.diffusion.reverse import KERNELS
from nelbo.errors import NelboError
from nelbo.runtime.atomic import new_file, write_json
from nelbo.time_schedule.baselines import BASELINES
from nelbo.time_schedule.costs import costs
from nelbo.time_schedule.error_table import ErrorTable
from nelbo.time_schedule.optimise import Schedules, optimal_schedules, path_bpd
from nelbo.time_schedule.schedule import TimeSchedule

SAMPLE_NOTE = "These schedules minimise the bound; for pictures use a sampler, `nelbo sample MODEL --steps K`."


@dataclass(frozen=True)
class Report:
    """Predicted bounds in bits per dimension, NaN where a budget cannot be met.

    Attributes:
        reverse: The kernel of the schedules.
        budgets: The numbers of network calls.
        optimal: By kernel, the optimum of each budget.
        baselines: By rule, under ``reverse``, with the kernel's own ends: the rule alone, no free entry and exit.
        schedules: The best schedules under ``reverse``.
        search: Which search found them.
        n_images: Images in the error table.
    """

    reverse: str
    budgets: tuple[int, ...]
    optimal: dict[str, tuple[float, ...]]
    baselines: dict[str, tuple[float, ...]]
    schedules: dict[int, TimeSchedule]
    search: str
    n_images: int

    def text(self) -> str:
        """Returns the report as a table, a row for each kernel and rule."""
        rows = {f"optimal, {name}": values for name, values in self.optimal.items()}
        rows |= {f"{name}, {self.reverse}": values for name, values in self.baselines.items()}
        lines = {"": [str(budget) for budget in self.budgets]}
        lines |= {name: [_cell(value) for value in values] for name, values in rows.items()}
        name_width = max(map(len, lines))
        width = max(9, 2 + max(len(cell) for cells in lines.values() for cell in cells))
        return "\n".join(
            name.ljust(name_width) + "".join(cell.rjust(width) for cell in cells) for name, cells in lines.items()
        )

    def save_json(self, path: Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Writes the report as JSON, whole or not at all.

        Args:
            path: Where to.
            provenance: Where the report comes from, of :func:`nelbo.models.provenance.provenance`.
        """
        content: dict[str, Any] = {
            "unit": "bits per dimension, predicted from the error table",
            "reverse": self.reverse,
            "search": self.search,
            "n_images": self.n_images,
            "budgets": self.budgets,
            "optimal": self.optimal,
            "baselines": self.baselines,
            "schedules": {str(budget): _described(schedule) for budget, schedule in self.schedules.items()},
            "note": SAMPLE_NOTE,
            **({} if provenance is None else {"provenance": provenance}),
        }
        write_json(path, content)

    def save_figure(self, path: Path) -> None:
        """Draws the bound against the budget, and where the steps lie.

        Raises:
            NelboError: If matplotlib is not installed.
        """
        figure = _figure(self)
        with new_file(path) as temporary:
            figure.savefig(temporary, dpi=120)


def report(table: ErrorTable, schedules: Schedules, kernels: Sequence[str], budgets: Sequence[int]) -> Report:
    """Returns the report on schedules, beside other kernels' optima and the rules of thumb.

    Args:
        table: The error table.
        schedules: The optimal schedules.
        kernels: The kernels whose optima to report, under the same freedom.
        budgets: The numbers of network calls to report.
    """
    reverse, freedom = schedules.graph.reverse, schedules.freedom
    found = {reverse: schedules} | {
        name: optimal_schedules(table, budgets, name, *freedom) for name in kernels if name != reverse
    }
    fixed = costs(table, reverse, free_entry=False, free_exit=False, steps=schedules.graph.steps)
    baselines = {
        name: tuple(path_bpd(table, fixed, rule(table, budget)) for budget in budgets)
        for name, rule in BASELINES.items()
    }
    return Report(
        reverse=reverse,
        budgets=tuple(budgets),
        optimal={name: tuple(each.bpd(budget) for budget in budgets) for name, each in found.items()},
        baselines=baselines,
        schedules={budget: schedules[budget] for budget in budgets if math.isfinite(schedules.bpd(budget))},
        search=schedules.paths.method,
        n_images=int(table.n_images.min()),
    )


def supported_kernels(table: ErrorTable) -> list[str]:
    """Returns the reverse kernels that a table's model can have."""
    return [name for name, kernel in KERNELS.items() if table.ranges is not None or not kernel.needs_range]


def _cell(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


def _described(schedule: TimeSchedule) -> dict[str, Any]:
    return {
        "n_steps": schedule.n_steps,
        "gammas": schedule.gammas.tolist(),
        "timesteps": schedule.timesteps,
        "exit": "decoder" if schedule.exit is None else schedule.exit.kind,
        "prediction": None if schedule.prediction is None else asdict(schedule.prediction),
    }


def _figure(report: Report) -> Any:  # noqa: ANN401
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise NelboError("figures need matplotlib: pip install 'nelbo[plot]'") from None
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, values in report.optimal.items():
        left.plot(report.budgets, values, marker="o", label=f"optimal, {name}")
    for name, values in report.baselines.items():
        left.plot(report.budgets, values, marker=".", linestyle=":", label=f"{name}, {report.reverse}")
    best = min(value for values in report.optimal.values() for value in values if math.isfinite(value))
    left.set(xscale="log", xlabel="network calls K", ylabel="predicted bits per dimension", ylim=(best - 0.1, best + 4))
    left.legend(fontsize=8)
    for row, (budget, schedule) in enumerate(report.schedules.items()):
        right.plot(schedule.gammas, [row] * len(schedule.gammas), "|", markersize=14, label=str(budget))
    right.set(xlabel="gamma = -log SNR", ylabel="K", title=f"where the steps lie ({report.reverse})")
    right.set_yticks(range(len(report.schedules)), [str(budget) for budget in report.schedules])
    return figure
