"""A time schedule: its file gives it back, and it belongs to one model."""

import pytest
import torch

from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.draws import chain_draws
from nelbo.errors import NelboError
from nelbo.evaluation import evaluate
from nelbo.sampling import sample
from nelbo.time_schedule.chain import chain_bound
from nelbo.time_schedule.gather import error_table
from nelbo.time_schedule.optimise import optimal_schedules
from nelbo.time_schedule.schedule import TimeSchedule, plain_schedule

from fixtures.schedule_cases import MODELS, N_IMAGES, N_LEVELS, cases, kernels_of, models


@cases
def test_a_file_gives_the_schedule_back(gathered, model_name, reverse, tmp_path):
    model, images, table = gathered(model_name)
    for k in (1, 4):
        schedule = optimal_schedules(table, reverse=reverse)[k]
        schedule.save(tmp_path / "k.safetensors")
        found = TimeSchedule.load(tmp_path / "k.safetensors")
        eps_0, eps = chain_draws(range(N_IMAGES), model.image_shape, 1)
        one, other = (chain_bound(model.given(), each, images, eps_0, eps) for each in (schedule, found))
        assert torch.equal(one.total, other.total)
        assert (found.prediction, found.timesteps, found.n_steps) == (schedule.prediction, schedule.timesteps, k)


def test_damaged_foreign_and_other_models_schedules_are_refused(gathered, make_model, make_pixels, tmp_path):
    _, _, table = gathered("vdm")
    path = tmp_path / "4.safetensors"
    with pytest.raises(NelboError, match="no time schedule at"):
        TimeSchedule.load(path)
    schedule = optimal_schedules(table)[4]
    schedule.save(path)
    whole = path.read_bytes()
    for length in (0, 9, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(NelboError, match=r"4\.safetensors is"):
            TimeSchedule.load(path)
    other = make_model()
    other.denoiser.points.add_(0.1)
    for use in (lambda: evaluate(other, make_pixels(2), schedule), lambda: sample(other, schedule, [0])):
        with pytest.raises(NelboError, match="made for model"):
            use()


@pytest.mark.parametrize("model_name", ["vdm", "ddpm"])
@pytest.mark.parametrize("k", [1, 3, N_LEVELS])
def test_plain_steps_are_the_schedule_that_stops_evenly(gathered, model_name, k):
    """The T-step bound, all of its steps, and the plain schedule agree but for their noise."""
    model, images, _ = gathered(model_name)
    schedule = plain_schedule(model, k)
    by_schedule = evaluate(model, images.repeat(20, 1, 1, 1), schedule, precision="float32")
    by_steps = evaluate(model, images.repeat(20, 1, 1, 1), k, n_passes=max(k, 2), precision="float32")
    error = 4 * (by_schedule.standard_error + by_steps.standard_error)
    assert by_schedule.bpd == pytest.approx(by_steps.bpd, abs=error + 1e-9)
    assert by_schedule.prior.bpd == pytest.approx(by_steps.prior.bpd, rel=1e-9)


@models
def test_samples_of_every_kernel_are_images_of_the_data(make_model, make_pixels, model_name):
    """With the exact denoiser of five images, chains end at one of them."""
    model = make_model(*MODELS[model_name])
    model.is_exact = True
    table = error_table(model, make_pixels(5, seed=9), n_gammas=N_LEVELS, precision="float32")
    for reverse in kernels_of(model_name):
        schedule = optimal_schedules(table, reverse=reverse)[N_LEVELS]
        images = sample(model, schedule, range(8), precision="float32")
        assert torch.equal(images[3:4], sample(model, schedule, [3], precision="float32"))
        points = model.denoiser.points.reshape(-1, *model.image_shape)
        nearest = (to_unit(images)[:, None] - points).square().mean((2, 3, 4)).min(1).values
        assert nearest.median() < 0.05


def test_a_copied_model_keeps_its_kernel(make_model):
    """As the weight average of a training run is one."""
    import copy

    for kind in MODELS.values():
        model = copy.deepcopy(make_model(*kind))
        assert plain_schedule(model, 4).reverse == kind[1]
