"""Chains that enter with a Gaussian of the images: priced, measured, saved, sampled; refused by the codec by name."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file

import nelbo
from nelbo.codec.make_plan import make_plan
from nelbo.data import from_array
from nelbo.errors import NelboError
from nelbo.models.moments import image_moments
from nelbo.time_schedule.optimise import optimal_schedules
from nelbo.time_schedule.schedule import TimeSchedule


@pytest.fixture(params=["vdm", "ddpm"])
def case(request, gathered):
    model, images, table = gathered(request.param)
    return model, images, table, image_moments(images)


def test_no_budget_is_worse_for_it_where_it_fits_better(case):
    _, _, table, moments = case
    entry = moments.entry(table.basis().colours)
    assert (entry.expected_kl(table.gammas, table.n_dims) <= table.prior()).all()
    plain, gaussian = optimal_schedules(table), optimal_schedules(table, moments=moments)
    for budget in range(1, len(table.gammas) + 1):
        assert gaussian.bpd(budget) <= plain.bpd(budget) + 1e-9


def test_what_is_predicted_is_measured(case):
    model, images, table, moments = case
    schedule = optimal_schedules(table, [3], moments=moments)[3]
    measured = nelbo.evaluate(model, from_array(images), schedule, precision="float32")
    assert schedule.prediction is not None
    assert abs(measured.prior.bpd - schedule.prediction.prior) < 0.15 * schedule.prediction.prior + 0.02
    assert measured.diffusion.bpd + measured.reconstruction.bpd == pytest.approx(
        schedule.prediction.diffusion + schedule.prediction.reconstruction, rel=0.02
    )


def test_it_is_saved_and_loaded(case, tmp_path):
    model, images, table, moments = case
    schedule = optimal_schedules(table, [2], "posterior", moments=moments)[2]
    schedule.save(tmp_path / "2.safetensors")
    again = TimeSchedule.load(tmp_path / "2.safetensors")
    one, other = (
        nelbo.evaluate(model, from_array(images), each, precision="float32").bpd for each in (schedule, again)
    )
    assert one == other
    assert torch.equal(nelbo.sample(model, schedule, [0, 1]), nelbo.sample(model, again, [0, 1]))


def test_an_earlier_version_refuses_the_file_and_one_without_stays_as_it_was(case, tmp_path):
    _, _, table, moments = case
    from safetensors import safe_open

    for name, given, version in (("plain", None, "1"), ("gaussian", moments, "2")):
        optimal_schedules(table, [2], moments=given)[2].save(tmp_path / name)
        with safe_open(tmp_path / name, "pt") as file:
            assert file.metadata()["format"] == f"nelbo time schedule {version}"


def test_a_forged_entry_is_refused(case, tmp_path):
    _, _, table, moments = case
    path = tmp_path / "2.safetensors"
    optimal_schedules(table, [2], moments=moments)[2].save(path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        header = file.metadata()
    for name, forged in (
        ("entry.mean", torch.zeros(1, 1, 1, dtype=torch.float64)),
        ("entry.variance", -load_file(path)["entry.variance"] - 1),
        ("entry.colours", torch.full((3, 3), torch.nan, dtype=torch.float64)),
    ):
        save_file(load_file(path) | {name: forged}, tmp_path / "forged", header)
        with pytest.raises(NelboError, match="damaged"):
            TimeSchedule.load(tmp_path / "forged")


def test_the_codec_refuses_it_by_name(case):
    model, _, table, moments = case
    schedule = optimal_schedules(table, [2], exits=["causal"], moments=moments)[2]
    with pytest.raises(NelboError, match="enter with a Gaussian"):
        make_plan(model, schedule)
    make_plan(model, dataclasses.replace(schedule, entry=None))


def test_moments_of_another_shape_are_refused(case):
    _, _, table, _ = case
    channels, *_ = table.subject.image_shape
    other = image_moments(torch.zeros((4, channels, 7, 11), dtype=torch.uint8))
    with pytest.raises(NelboError, match="blocks of 7 x 11"):
        optimal_schedules(table, [2], moments=other)
