"""What a table predicts for a schedule is what measuring that schedule gives, for every kernel, exit and entry."""

import numpy as np
import pytest
import torch

from nelbo.diffusion.bound import Draws, bound
from nelbo.diffusion.draws import chain_draws
from nelbo.evaluation import evaluate
from nelbo.time_schedule.chain import chain_bound
from nelbo.time_schedule.optimise import optimal_schedules
from nelbo.time_schedule.schedule import plain_schedule

from fixtures.schedule_cases import N_IMAGES, N_LEVELS, cases, ends


@cases
@ends
def test_the_predicted_cost_is_the_measured_bound(gathered, model_name, reverse, settings):
    """On the same images with the same noise, term by term."""
    model, images, table = gathered(model_name)
    schedules = optimal_schedules(table, reverse=reverse, **settings)
    for k in (1, 2, 5, N_LEVELS):
        if not np.isfinite(schedules.bpd(k)):
            assert settings.get("free_exit") is False
            continue
        schedule = schedules[k]
        model.n_images_seen = 0
        measured = evaluate(model, images, schedule, precision="float32")
        assert model.n_images_seen == k * N_IMAGES
        assert schedule.n_steps == measured.n_steps == k
        assert schedule.prediction is not None
        # The histogram of variance ranges is right to about 1e-4.
        rtol = 3e-4 if reverse == "learned-range" else 2e-5
        assert measured.bpd == pytest.approx(schedule.bpd, rel=rtol)
        assert measured.bpd == pytest.approx(schedules.bpd(k), rel=rtol)
        for term in ("prior", "diffusion", "reconstruction"):
            expected = getattr(schedule.prediction, term)
            assert getattr(measured, term).bpd == pytest.approx(expected, rel=rtol, abs=1e-6)


@pytest.mark.parametrize("n_steps", [1, 2, 5, N_LEVELS])
def test_a_ddpms_bound_over_all_its_steps_is_that_of_the_whole_chain(make_model, make_pixels, n_steps):
    """Each of its T - 1 steps once, with the same noise: not an estimate, to rounding."""
    model, images = make_model(N_LEVELS, "learned-range").given(), make_pixels(N_IMAGES)
    _, eps = chain_draws(range(N_IMAGES), tuple(images.shape[1:]), 0)
    whole = chain_bound(model, plain_schedule(make_model(N_LEVELS, "learned-range"), n_steps), images, eps, eps)
    times = (torch.arange(max(n_steps - 1, 1), dtype=torch.float64) + 0.5) / max(n_steps - 1, 1)
    single = [bound(model, images, Draws(eps, u.expand(N_IMAGES), eps), n_steps) for u in times]
    for term in ("prior", "reconstruction", "diffusion"):
        mean = torch.stack([getattr(each, term) for each in single]).mean(0)
        torch.testing.assert_close(mean, getattr(whole, term), rtol=1e-6, atol=0)
