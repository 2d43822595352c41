"""Single steps drawn where the cost lies: unbiased, with an error that covers the truth, and every call counted."""

import math

import numpy as np
import pytest
import torch

import nelbo
from nelbo.data import from_array
from nelbo.diffusion.bound import discrete_diffusion
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.draws import chain_draws
from nelbo.diffusion.gaussian import alpha, sigma
from nelbo.diffusion.noise_schedule import Table
from nelbo.errors import NelboError
from nelbo.evaluation import evaluate
from nelbo.interop.betas import exit_std_of, gammas_of, named_betas
from nelbo.nets.closed_form import GaussianDenoiser
from nelbo.runtime.bundled import bundled_models
from nelbo.time_schedule.chain import chain_bound
from nelbo.time_schedule.gather import error_table
from nelbo.time_schedule.schedule import plain_schedule

SHAPE, N_DIMS = (1, 4, 4), 16
BETAS = {
    "linear": named_betas("linear", 1000),
    "cosine": named_betas("cosine", 1000),
    "scaled linear": torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2,
}


@pytest.fixture(scope="module")
def ddpm(exact_model):
    """Makes a discrete-time model of a Gaussian's denoiser, and 8-bit images of about its distribution."""
    rng = torch.Generator().manual_seed(0)
    root = torch.randn(N_DIMS, N_DIMS, generator=rng, dtype=torch.float64)
    covariance = 0.2 * root @ root.T / N_DIMS + 0.0005 * torch.eye(N_DIMS, dtype=torch.float64)
    x = torch.randn(400, N_DIMS, generator=rng, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    images = (128 * (x + 1) - 0.5).round().clamp(0, 255).to(torch.uint8).reshape(-1, *SHAPE)

    def make(betas):
        model = exact_model(GaussianDenoiser(torch.zeros(SHAPE), covariance), Table(gammas_of(betas).tolist()))
        model.gammas, model.exit_std = model.noise_schedule.gammas, exit_std_of(betas)
        return model, images

    return make


def expected_bpd(model, images):
    r"""Returns the expected diffusion term: the denoiser is linear, and its mistake's square known."""
    denoiser, alpha_2, sigma_2 = model.denoiser, alpha(model.gammas)[:, None] ** 2, sigma(model.gammas)[:, None] ** 2
    squares = (to_unit(images).double().flatten(1) @ denoiser.axes).square().mean(0)
    total = alpha_2 * denoiser.variances + sigma_2
    error = ((alpha_2 * denoiser.variances / total) ** 2 + sigma_2 * alpha_2 * squares / total**2).sum(1)
    return (0.5 * torch.expm1(model.gammas.diff()) * error[1:]).sum().item() / (N_DIMS * math.log(2))


@pytest.mark.parametrize("betas", BETAS.values(), ids=BETAS.keys())
def test_the_interval_covers_the_truth_as_often_as_it_says(ddpm, betas):
    """Over 200 seeds, each with its own images; and the mean over seeds is the truth."""
    model, images = ddpm(betas)
    truth, results = expected_bpd(model, images), []
    for seed in range(200):
        chosen = images[torch.from_numpy(np.random.default_rng(seed).integers(0, len(images), 64))]
        results.append(evaluate(model, chosen, seed=seed).diffusion)
    covered = [abs(result.bpd - truth) < 1.96 * result.standard_error for result in results]
    assert 0.92 <= sum(covered) / len(covered) <= 0.98
    values = torch.tensor([result.bpd for result in results], dtype=torch.float64)
    assert abs(values.mean() - truth) < 3 * values.std() / math.sqrt(len(values))


def test_few_images_have_an_error_of_the_right_size(ddpm):
    model, images = ddpm(BETAS["linear"])
    for n in (2, 8):
        results = [evaluate(model, images[n * seed : n * seed + n], seed=seed).diffusion for seed in range(40)]
        spread = torch.tensor([result.bpd for result in results]).std().item()
        claimed = math.sqrt(sum(result.standard_error**2 for result in results) / len(results))
        assert 0.6 * spread < claimed < 1.7 * spread


@pytest.mark.parametrize("n_steps", [None, 10, 2, 1])
def test_the_walk_of_all_steps_is_what_single_steps_estimate(ddpm, n_steps):
    """To the last digits, with the same noise: each step once, weighted as one of the chain's n_steps - 1."""
    model, images = ddpm(BETAS["linear"])
    n_levels = n_steps or 1000
    eps_0, eps = (noise.double() for noise in chain_draws(range(1), SHAPE, 0))
    walked = chain_bound(model.given(), plain_schedule(model, n_levels), images[:1], eps_0, eps)
    u = (torch.arange(n_levels - 1, dtype=torch.float64) + 0.5) / (n_levels - 1)
    x = to_unit(images[:1]).expand(len(u), *SHAPE)
    single = discrete_diffusion(model.given(), x, u, eps.expand(len(u), *SHAPE), n_levels)
    mean = single.mean() if len(u) else torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(mean, walked.diffusion[0], rtol=1e-9, atol=0)


def test_all_walks_every_level_of_the_model(ddpm):
    """Each with its own noise, so that of a thousand levels little noise is left."""
    model, images = ddpm(BETAS["cosine"])
    result = evaluate(model, images[:40], "all", seed=2)
    assert (result.n_steps, result.drawn, result.n_calls, result.n_pilot_calls) == (1000, "all", 40_000, 0)
    assert result.diffusion.bpd == pytest.approx(expected_bpd(model, images[:40]), rel=0.02)
    first, again = (evaluate(model, images[:2], "all", seed=2, batch_size=size) for size in (1, 2))
    assert first.bpd == pytest.approx(again.bpd, rel=1e-9)


@pytest.mark.parametrize("n_steps", [None, 40, 3, 1, "all"])
@pytest.mark.parametrize("n", [1, 7])
def test_every_call_is_counted(ddpm, n_steps, n):
    model, images = ddpm(BETAS["cosine"])
    seen, denoise = [], model.denoise
    model.denoise = lambda z, gamma, labels=None: seen.append(len(z)) or denoise(z, gamma)
    result = evaluate(model, images[:n], n_steps, n_passes=2)
    assert sum(seen) == result.n_calls + result.n_pilot_calls
    assert result.drawn == {1: "evenly", "all": "all"}.get(n_steps, "pilot")


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("n_steps", [None, 9, "all"])
def test_the_batch_size_changes_nothing(ddpm, batch_size, n_steps):
    model, images = ddpm(named_betas("linear", 40))
    whole, found = (evaluate(model, images[:20], n_steps, n_passes=2, batch_size=size) for size in (20, batch_size))
    assert found.bpd == pytest.approx(whole.bpd, rel=1e-9)
    assert found.standard_error == pytest.approx(whole.standard_error, rel=1e-9)


def test_progress_is_told_in_images(ddpm):
    model, images = ddpm(named_betas("linear", 40))
    for n_steps in (None, "all"):
        done = []
        evaluate(model, images[:20], n_steps, batch_size=15, n_passes=3, progress=done.append)
        assert sum(done) == 20
        assert len(done) > (10 if n_steps == "all" else 2)


@pytest.mark.parametrize("kind", [(None, "posterior"), (20, "forward"), (20, "learned-range")])
@pytest.mark.parametrize("n_steps", [None, 8])
def test_an_error_table_says_where_to_draw(make_model, make_pixels, kind, n_steps):
    """Without a bias."""
    model, images = make_model(*kind), make_pixels(24)
    table = error_table(model, images[:4], n_gammas=20, precision="float32", exit_kinds=())
    results = [evaluate(model, images, n_steps, seed, precision="float32", table=table) for seed in range(12)]
    assert {(result.drawn, result.n_pilot_calls) for result in results} == {("table", 0)}
    others = [evaluate(model, images, n_steps, seed, precision="float32", n_passes=20) for seed in range(3)]
    values, truth = (torch.tensor([result.bpd for result in each]) for each in (results, others))
    error = math.hypot(values.std().item() / math.sqrt(12), truth.std().item() / math.sqrt(3))
    assert abs(values.mean() - truth.mean()) < 4 * error + 1e-3


def test_tables_that_do_not_apply_are_refused(make_model, make_pixels, ddpm):
    model, images = make_model(40, "forward"), make_pixels(3)
    table = error_table(model, images, precision="float32")
    with pytest.raises(NelboError, match="all are walked: leave it out"):
        evaluate(model, images, "all", table=table)
    other, others = ddpm(BETAS["linear"])
    with pytest.raises(NelboError, match="another model's"):
        evaluate(other, others, table=table)


def test_all_steps_of_continuous_time_are_refused(make_model, make_pixels):
    with pytest.raises(NelboError, match="no chain of all"):
        evaluate(make_model(), make_pixels(3), "all")


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_models_are_measured_by_their_own_tables(name):
    model = nelbo.load(name)
    rng = np.random.default_rng(0)
    channels, height, width = model.image_shape
    data = from_array(rng.integers(0, 256, (3, height, width, channels), dtype=np.uint8))
    assert evaluate(model, data).drawn == "table"
    assert evaluate(model, data, 250).drawn == "table"
    assert evaluate(model, data, 10**6).drawn == "evenly"
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    assert evaluate(model, data).drawn == "evenly"


def test_a_network_that_fails_in_the_pilot_pass_is_refused(ddpm):
    model, images = ddpm(BETAS["linear"])
    model.denoise = lambda z, gamma, labels=None: z * math.nan
    with pytest.raises(NelboError, match="not finite"):
        evaluate(model, images[:3])
