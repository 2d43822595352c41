"""What a table predicts for a schedule is what measuring that schedule gives, for every kernel, exit and entry."""

import itertools

import numpy as np
import pytest
import torch

from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.draws import chain_draws
from nelbo.diffusion.gaussian import diffuse
from nelbo.diffusion.reverse import KERNELS
from nelbo.errors import NelboError
from nelbo.evaluation import evaluate
from nelbo.sampling import sample
from nelbo.time_schedule.baselines import BASELINES
from nelbo.time_schedule.chain import chain_bound
from nelbo.time_schedule.costs import costs
from nelbo.time_schedule.gather import error_table
from nelbo.time_schedule.optimise import optimal_schedules, path_bpd, schedule_of
from nelbo.time_schedule.schedule import TimeSchedule, plain_schedule

N_LEVELS, N_IMAGES = 12, 5
MODELS = {"vdm": (None, "posterior"), "ddpm": (N_LEVELS, "learned-range")}
models = pytest.mark.parametrize("model_name", MODELS)
ENDS = {
    "free": {},
    "fixed": {"exits": ["decoder"], "free_entry": False, "free_exit": False},
    "channels": {"exits": ["channels"]},
}
ends = pytest.mark.parametrize("settings", ENDS.values(), ids=ENDS.keys())


def kernels_of(model_name):
    return [kernel for kernel in KERNELS if model_name == "ddpm" or kernel != "learned-range"]


cases = pytest.mark.parametrize(("model_name", "reverse"), [(m, k) for m in MODELS for k in kernels_of(m)])


@pytest.fixture
def gather(make_model, make_pixels):
    def run(model_name):
        model = make_model(*MODELS[model_name])
        return (
            model,
            make_pixels(N_IMAGES),
            error_table(model, make_pixels(N_IMAGES), n_gammas=N_LEVELS, precision="float32"),
        )

    return run


@cases
@ends
def test_the_predicted_cost_is_the_measured_bound(gather, model_name, reverse, settings):
    """On the same images with the same noise, term by term."""
    model, images, table = gather(model_name)
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


@cases
def test_edge_costs_are_the_kernels_divergences(gather, model_name, reverse):
    """Against step_kl itself, averaged over the images of the table, for every pair of levels."""
    model, images, table = gather(model_name)
    graph = costs(table, reverse)
    _, eps = chain_draws(range(N_IMAGES), model.image_shape, 0)
    for s, t in [(1, 2), (1, N_LEVELS), (5, 6), (3, 9)]:
        schedule = schedule_of(table, graph, [0, s, t])
        gamma_s, gamma_t = table.gammas[[s - 1, t - 1]][:, None].expand(2, N_IMAGES)
        eps_hat, nu = model.denoise_with_range(diffuse(to_unit(images), eps, gamma_t), gamma_t)
        nats = schedule.kernel(len(schedule.gammas) - 2).step_kl(eps - eps_hat, gamma_s, gamma_t, nu).mean().item()
        assert graph.edges[s, t] == pytest.approx(nats, rel=3e-4 if reverse == "learned-range" else 1e-5)


@cases
@ends
def test_no_baseline_and_no_other_path_is_better(gather, model_name, reverse, settings):
    _, _, table = gather(model_name)
    schedules = optimal_schedules(table, reverse=reverse, **settings)
    for k in range(1, N_LEVELS + 1):
        for rule in BASELINES.values():
            nodes = rule(table, k)
            assert len(nodes) == k + 1
            assert nodes[-1] == N_LEVELS
            assert all(s < t for s, t in itertools.pairwise(nodes))
            assert schedules.bpd(k) <= path_bpd(table, schedules.graph, nodes) + 1e-12
    rng = np.random.default_rng(0)
    for _ in range(50):
        k = int(rng.integers(1, N_LEVELS + 1))
        nodes = [0, *sorted((rng.choice(N_LEVELS, k, replace=False) + 1).tolist())]
        assert schedules.bpd(k) <= path_bpd(table, schedules.graph, nodes) + 1e-12


@models
def test_more_freedom_never_costs(gather, model_name):
    _, _, table = gather(model_name)
    for reverse in kernels_of(model_name):
        free = optimal_schedules(table, reverse=reverse)
        for settings in ENDS.values():
            bound = optimal_schedules(table, reverse=reverse, **settings)
            for k in range(1, N_LEVELS + 1):
                assert free.bpd(k) <= bound.bpd(k) + 1e-12
    spectral, analytic = (optimal_schedules(table, reverse=name) for name in ("spectral", "analytic"))
    assert all(spectral.bpd(k) <= analytic.bpd(k) + 1e-12 for k in range(1, N_LEVELS + 1))


@models
def test_fixed_ends_are_those_the_model_was_trained_with(gather, model_name):
    _, _, table = gather(model_name)
    schedules = optimal_schedules(table, reverse="posterior", **ENDS["fixed"])
    schedule = schedules[3]
    assert schedule.gammas[-1] == table.gammas[-1]
    first = table.subject.gamma_0 if table.subject.gamma_0 is not None else table.gammas[0].item()
    assert schedule.gammas[0].item() == pytest.approx(first)
    assert schedule.exit is None


def test_timesteps_are_the_levels_of_a_discrete_model(gather):
    _, _, table = gather("ddpm")
    schedule = optimal_schedules(table, [4], reverse="posterior", **ENDS["fixed"])[4]
    assert schedule.timesteps is not None
    assert schedule.timesteps[0] == 0
    assert schedule.timesteps[-1] == N_LEVELS - 1
    torch.testing.assert_close(schedule.gammas, table.gammas[list(schedule.timesteps)])


@cases
def test_a_file_gives_the_schedule_back(gather, model_name, reverse, tmp_path):
    model, images, table = gather(model_name)
    for k in (1, 4):
        schedule = optimal_schedules(table, reverse=reverse)[k]
        schedule.save(tmp_path / "k.safetensors")
        found = TimeSchedule.load(tmp_path / "k.safetensors")
        eps_0, eps = chain_draws(range(N_IMAGES), model.image_shape, 1)
        one, other = (chain_bound(model, each, images, eps_0, eps) for each in (schedule, found))
        assert torch.equal(one.total, other.total)
        assert (found.prediction, found.timesteps, found.n_steps) == (schedule.prediction, schedule.timesteps, k)


def test_damaged_foreign_and_other_models_schedules_are_refused(gather, make_model, make_pixels, tmp_path):
    _, _, table = gather("vdm")
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
def test_plain_steps_are_the_schedule_that_stops_evenly(gather, model_name, k):
    """The T-step bound, all of its steps, and the plain schedule agree but for their noise."""
    model, images, _ = gather(model_name)
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
def test_what_the_table_cannot_give_is_refused(gather, settings, message):
    _, _, table = gather("vdm")
    with pytest.raises(NelboError, match=message):
        optimal_schedules(table, **settings)


def test_an_unfinished_table_is_refused(gather):
    _, _, table = gather("vdm")
    table.n_images[3] = 0
    with pytest.raises(NelboError, match="unfinished"):
        optimal_schedules(table)


def test_a_copied_model_keeps_its_kernel(make_model):
    """As the weight average of a training run is one."""
    import copy

    for kind in MODELS.values():
        model = copy.deepcopy(make_model(*kind))
        assert plain_schedule(model, 4).reverse == kind[1]
