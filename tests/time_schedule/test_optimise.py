"""The optimal schedules of a table: more freedom never costs, and the ends are those that were asked for."""

import pytest
import torch

from nelbo.diffusion.draws import chain_draws
from nelbo.errors import NelboError
from nelbo.time_schedule.chain import chain_bound
from nelbo.time_schedule.gather import error_table
from nelbo.time_schedule.optimise import optimal_schedules

from fixtures.schedule_cases import ENDS, MODELS, N_LEVELS, kernels_of, models


@models
def test_more_freedom_never_costs(gathered, model_name):
    _, _, table = gathered(model_name)
    for reverse in kernels_of(model_name):
        free = optimal_schedules(table, reverse=reverse)
        for settings in ENDS.values():
            bound = optimal_schedules(table, reverse=reverse, **settings)
            for k in range(1, N_LEVELS + 1):
                assert free.bpd(k) <= bound.bpd(k) + 1e-12
    spectral, analytic = (optimal_schedules(table, reverse=name) for name in ("spectral", "analytic"))
    assert all(spectral.bpd(k) <= analytic.bpd(k) + 1e-12 for k in range(1, N_LEVELS + 1))


@models
def test_fixed_ends_are_those_the_model_was_trained_with(gathered, model_name):
    _, _, table = gathered(model_name)
    schedules = optimal_schedules(table, reverse="posterior", **ENDS["fixed"])
    schedule = schedules[3]
    assert schedule.gammas[-1] == table.gammas[-1]
    first = table.subject.gamma_0 if table.subject.gamma_0 is not None else table.gammas[0].item()
    assert schedule.gammas[0].item() == pytest.approx(first)
    assert schedule.exit is None


def test_timesteps_are_the_levels_of_a_discrete_model(gathered):
    _, _, table = gathered("ddpm")
    schedule = optimal_schedules(table, [4], reverse="posterior", **ENDS["fixed"])[4]
    assert schedule.timesteps is not None
    assert schedule.timesteps[0] == 0
    assert schedule.timesteps[-1] == N_LEVELS - 1
    torch.testing.assert_close(schedule.gammas, table.gammas[list(schedule.timesteps)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budgets": [0]}, "from 1 to 12"),
        ({"budgets": [13]}, "from 1 to 12"),
        ({"reverse": "sideways"}, "no reverse kernel 'sideways'"),
        ({"reverse": "learned-range"}, "no learned variances"),
        ({"exits": ["window"]}, "no exit 'window'"),
        ({"exits": []}, "at least one exit"),
    ],
)
def test_what_the_table_cannot_give_is_refused(gathered, settings, message):
    _, _, table = gathered("vdm")
    with pytest.raises(NelboError, match=message):
        optimal_schedules(table, **settings)


def test_an_unfinished_table_is_refused(gathered):
    _, _, table = gathered("vdm")
    table.n_images[3] = 0
    with pytest.raises(NelboError, match="unfinished"):
        optimal_schedules(table)


@pytest.mark.parametrize("reverse", ["posterior", "spectral"])
@pytest.mark.parametrize("kind", ["decoder", "channels", "causal"])
@models
def test_the_standard_error_is_the_bootstraps_or_above(make_model, make_pixels, model_name, kind, reverse):
    """Over resampled images; where a single term varies, the two are the same."""
    model, images = make_model(*MODELS[model_name]), make_pixels(24)
    table = error_table(model, images, n_gammas=N_LEVELS, precision="float32")
    eps_0, eps = chain_draws(range(24), model.image_shape, 0)
    resampled = torch.randint(24, (2000, 24), generator=torch.Generator().manual_seed(0))
    for k in (1, 2, 8):
        schedule = optimal_schedules(table, [k], reverse, [kind])[k]
        bpd = chain_bound(model.given(), schedule, images, eps_0, eps).bpd
        bootstrap = bpd[resampled].mean(1).std().item()
        assert schedule.prediction_error > 0.93 * bootstrap
        if k == 1 and not (model_name == "vdm" and kind == "decoder"):
            assert schedule.prediction_error < 1.2 * bootstrap
