"""The same integers and the same archives under limits on instructions and threads, each in a process of its own."""

import pytest

from nelbo.codec.make_plan import embedded_plan
from nelbo.codec.plan_store import with_plans
from nelbo.integer.frozen_files import FROZEN
from nelbo.integer.frozen_model import FrozenModel
from nelbo.models.folder import save
from nelbo.runtime.bundled import bundled_models


@pytest.fixture
def portability(script):
    return script("benchmarks/portability.py")


@pytest.fixture
def small_case(portability, small_model, small_frozen, schedule_of, smooth_images, tmp_path):
    save(small_model, tmp_path / "model", "# A model")
    plan = embedded_plan(small_model, schedule_of("analytic", "causal", (0.5, 1.2, 2.0), 0.0))
    case = portability.Case(str(tmp_path / "model"), 3, 3, (1, 2))
    return portability.prepare(tmp_path / "small", case, with_plans(small_frozen, {3: plan}), smooth_images(6))


@pytest.mark.usefixtures("always_bits_back")
def test_one_process_agrees_with_itself_and_a_difference_is_told(portability, small_case, capsys):
    row = portability.answers(small_case)
    assert {what: len(values) for what, values in row.items()} == {
        "archives": 2, "decoded": 2, "native": 3, "float32": 3, "reference": 3, "plain float32": 3
    }  # fmt: skip
    assert portability.reported({"a": row, "b": row}, small_case)
    for what, name in (("archives", "archives"), ("decoded", "decoded"), ("native", "network")):
        other = row | {what: ["other", *row[what][1:]]}
        assert portability.differing({"a": row, "b": other}) == [name]
        assert not portability.reported({"a": row, "b": other}, small_case)
        assert f"DIFFERENT: {name}" in capsys.readouterr().out
    assert portability.reported({"a": row, "b": row | {portability.AT_STAKE: ["other"]}}, small_case)


def test_an_archive_that_decodes_to_something_else_is_told(portability, small_case):
    row = portability.answers(small_case)
    (small_case / "first.nelbo").write_bytes((small_case / "first.nelbo").read_bytes()[:-1])
    cut = portability.answers(small_case)
    assert all(value.startswith("FAILED (") for value in cut["decoded"])
    assert portability.differing({"a": row, "b": cut}) == ["decoded"]


def under_every_limit(portability, folder):
    """Returns the answers under every limit on instructions, the numbers of threads mixed."""
    rows = {
        name: portability.under(limits, n_threads, folder)
        for (name, limits), n_threads in zip(portability.LIMITS.items(), (2, 1, 2), strict=True)
    }
    assert portability.differing(rows) == []
    return portability.n_coded((folder / "first.nelbo").read_bytes())


@pytest.mark.slow
def test_every_emulated_processor_gives_the_same_integers(portability, small_case):
    under_every_limit(portability, small_case)


@pytest.mark.slow
def test_every_emulated_processor_writes_and_reads_the_same_archives(portability, tmp_path):
    frozen = FrozenModel.load(bundled_models()["mnist-tiny"] / FROZEN)
    images = portability.choose_images(portability.load("mnist-tiny"), None, 12)
    case = portability.Case("mnist-tiny", 4, 6, (1, 2))
    n_bits_back, n_chains = under_every_limit(portability, portability.prepare(tmp_path / "case", case, frozen, images))
    assert n_bits_back == n_chains == 2
