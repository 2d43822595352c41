"""A report states what the search and the rules of thumb found, as a table, as JSON and as a figure."""

import json
import math

import pytest

from nelbo.time_schedule.baselines import BASELINES
from nelbo.time_schedule.costs import costs
from nelbo.time_schedule.optimise import optimal_schedules, path_bpd
from nelbo.time_schedule.report import report, supported_kernels

from fixtures.schedule_cases import ENDS, N_LEVELS, kernels_of, models

BUDGETS = (1, 4, N_LEVELS)


@pytest.fixture
def reported(gathered):
    """Returns a report and the table it is of: ``reported("vdm", "free")``."""

    def make(model_name, ends):
        table = gathered(model_name)[2]
        schedules = optimal_schedules(table, BUDGETS, "posterior", **ENDS[ends])
        return report(table, schedules, supported_kernels(table), BUDGETS), table

    return make


@models
@pytest.mark.parametrize("ends", ENDS)
def test_its_numbers_are_those_of_the_search_and_of_the_rules(reported, model_name, ends):
    found, table = reported(model_name, ends)
    assert set(found.optimal) == set(kernels_of(model_name))
    for kernel, values in found.optimal.items():
        other = optimal_schedules(table, BUDGETS, kernel, **ENDS[ends])
        assert values == pytest.approx([other.bpd(k) for k in BUDGETS], rel=1e-12, nan_ok=True)
    fixed = costs(table, "posterior", free_entry=False, free_exit=False)
    for name, values in found.baselines.items():
        rule = [path_bpd(table, fixed, BASELINES[name](table, k)) for k in BUDGETS]
        assert values == pytest.approx(rule, rel=1e-12, nan_ok=True)
    assert {k: len(schedule.gammas) for k, schedule in found.schedules.items()}.keys() <= set(BUDGETS)


@models
def test_the_table_and_the_json_hold_its_numbers(reported, model_name, tmp_path):
    found, _ = reported(model_name, "fixed")
    found.save_json(tmp_path / "report.json")
    stored = json.loads((tmp_path / "report.json").read_text())
    lines = found.text().splitlines()
    assert lines[0].split() == [str(k) for k in BUDGETS]
    assert len(lines) == 1 + len(found.optimal) + len(found.baselines)
    for name, values in found.optimal.items():
        (line,) = [line for line in lines if line.startswith(f"optimal, {name}")]
        assert line.split()[-3:] == [f"{value:.4f}" if math.isfinite(value) else "-" for value in values]
        assert stored["optimal"][name] == [value if math.isfinite(value) else None for value in values]
    for k, schedule in found.schedules.items():
        assert stored["schedules"][str(k)]["gammas"] == schedule.gammas.tolist()


def test_the_figure_is_a_file(reported, tmp_path):
    pytest.importorskip("matplotlib")
    found, _ = reported("vdm", "free")
    found.save_figure(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
