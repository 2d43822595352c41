"""What a table predicts for a schedule is what measuring that schedule gives, for every kernel, exit and entry."""

import numpy as np
import pytest

from nelbo.evaluation import evaluate
from nelbo.time_schedule.optimise import optimal_schedules

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
