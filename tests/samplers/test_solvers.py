"""Every solver against the exact probability flow of Gaussian data, against each other, and against diffusers."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

from nelbo.diffusion.gaussian import alpha, denoised, posterior, sigma
from nelbo.errors import NelboError
from nelbo.nets.closed_form import GaussianDenoiser
from nelbo.samplers.ddim import DDIM
from nelbo.samplers.dpm_solver import DPMSolver1, DPMSolver2M, DPMSolver3M, DPMSolverSDE
from nelbo.samplers.heun import Heun
from nelbo.samplers.levels import RULES, nearest, spread
from nelbo.samplers.solver import Level
from nelbo.samplers.table import SOLVERS, make_solver

SHAPE = (1, 2, 3)


@pytest.fixture(scope="module")
def denoiser():
    return GaussianDenoiser(torch.linspace(-0.5, 0.5, 6).reshape(SHAPE), torch.logspace(-3, 0, 6, dtype=torch.float64))


@pytest.fixture(scope="module")
def predict(denoiser):
    def x_hat(z, gamma):
        gammas = torch.full((len(z),), gamma, dtype=torch.float64)
        return denoised(z, denoiser(z, gammas), gammas)

    return x_hat


@pytest.fixture
def z():
    return torch.randn((4, *SHAPE), dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def no_noise():
    raise AssertionError("a deterministic solver draws no noise")


def exact_flow(denoiser, z, high, low):
    """The probability flow of a Gaussian scales each principal coordinate by the ratio of its deviations."""
    high, low = (torch.tensor([end], dtype=torch.float64) for end in (high, low))
    scale = torch.sqrt(denoiser._latent_variances(low) / denoiser._latent_variances(high))
    moved = denoiser._coordinates(z, high.expand(len(z))) * scale
    return (alpha(low) * denoiser.mean.flatten() + moved @ denoiser.axes.T).reshape(z.shape)


@pytest.mark.parametrize(
    ("solver", "order"), [(DDIM(), 1), (DPMSolver1(), 1), (DPMSolver2M(), 2), (DPMSolver3M(), 3), (Heun(), 2)]
)
def test_a_solver_converges_to_the_flow_at_its_order(solver, order, denoiser, predict, z):
    low, high = -4.0, 12.0  # From pure noise, where the first step of lower order costs nothing.
    exact = predict(exact_flow(denoiser, z, high, low), low)

    def error(n):
        return (
            (solver.solve(predict, z, spread("even-in-gamma", n + 1, low, high), no_noise) - exact).abs().max().item()
        )

    measured = math.log2(error(128) / error(256))
    assert abs(measured - order) < 0.25


def test_ddim_is_eulers_step_of_the_flow(predict, z):
    t, s = Level(1.0), Level(-0.5)
    slope = (z / t.alpha - predict(z, t.gamma)) / math.exp(t.gamma / 2)
    euler = z / t.alpha + (math.exp(s.gamma / 2) - math.exp(t.gamma / 2)) * slope
    torch.testing.assert_close(DDIM().solve(predict, z, [1.0, -0.5], no_noise), predict(s.alpha * euler, s.gamma))


def test_first_order_is_ddim(predict, z):
    gammas = spread("edm", 7, -8.0, 4.0)
    one, other = (solver.solve(predict, z, gammas, no_noise) for solver in (DPMSolver1(), DDIM()))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("solver", [DDIM(eta=1.0), DPMSolverSDE()])
def test_full_noise_is_the_ancestral_step(solver, predict, z):
    """The first step of both: later ones of the second order extrapolate."""
    noise, gammas = torch.randn(z.shape, dtype=z.dtype), torch.tensor([1.0, -0.5], dtype=torch.float64)
    t, s = (gamma.expand(len(z)) for gamma in gammas)
    mean, std = posterior(z, predict(z, 1.0), s, t)
    expected = predict(mean + std[:, None, None, None] * noise, -0.5)
    torch.testing.assert_close(solver.solve(predict, z, gammas.tolist(), lambda: noise), expected)


@pytest.mark.parametrize("name", SOLVERS)
def test_one_level_is_the_prediction(name, predict, z):
    torch.testing.assert_close(make_solver(name).solve(predict, z, [2.0], no_noise), predict(z, 2.0))


def test_churn_keeps_the_marginal(denoiser, predict):
    """With churn the samples of Gaussian data have its variance, but for the steps' length."""
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn((4000, *SHAPE), dtype=torch.float64, generator=generator)
    gammas = spread("edm", 40, -9.0, 6.0)
    start = alpha(torch.tensor(6.0)) * denoiser.mean + sigma(torch.tensor(6.0)) * draws
    x = Heun(churn=20.0).solve(
        predict, start, gammas, lambda: torch.randn(start.shape, dtype=start.dtype, generator=generator)
    )
    expected = torch.diag(denoiser.axes @ torch.diag(denoiser.variances) @ denoiser.axes.T)
    torch.testing.assert_close(x.flatten(1).var(0), expected, rtol=0.15, atol=5e-3)


# Against diffusers, on the same timesteps and noise


def of_diffusers(scheduler, timesteps, denoiser, z):
    """Walks a scheduler of diffusers as its pipelines do."""
    gammas = torch.log((1 - scheduler.alphas_cumprod.double()) / scheduler.alphas_cumprod.double())
    for timestep in timesteps:
        eps_hat = denoiser(z, gammas[timestep].expand(len(z)))
        z = scheduler.step(eps_hat, int(timestep), z, return_dict=False)[0]
    return z, gammas


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Of diffusers.
@pytest.mark.parametrize(
    ("solver", "settings"),
    [
        (DPMSolver2M(), {"solver_order": 2}),
        (DPMSolver1(), {"solver_order": 1}),
    ],
)
def test_dpm_solver_is_that_of_diffusers(solver, settings, denoiser, predict, z):
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", final_sigmas_type="zero", lower_order_final=False, thresholding=False, **settings
    )
    scheduler.set_timesteps(8)
    theirs, gammas = of_diffusers(scheduler, scheduler.timesteps, denoiser, z)
    ours = solver.solve(predict, z, gammas[scheduler.timesteps].tolist(), no_noise)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_that_of_diffusers(eta, denoiser, predict, z):
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    gammas = torch.log((1 - scheduler.alphas_cumprod.double()) / scheduler.alphas_cumprod.double())
    noises = iter(torch.randn((10, *z.shape), dtype=z.dtype, generator=torch.Generator().manual_seed(3)))
    ours = DDIM(eta).solve(predict, z, gammas[scheduler.timesteps].tolist(), lambda: next(noises))
    theirs = z
    for timestep, noise in zip(
        scheduler.timesteps,
        torch.randn((10, *z.shape), dtype=z.dtype, generator=torch.Generator().manual_seed(3)),
        strict=True,
    ):
        is_last = timestep == scheduler.timesteps[-1]
        eps_hat = denoiser(theirs, gammas[timestep].expand(len(z)))
        theirs = scheduler.step(
            eps_hat,
            int(timestep),
            theirs,
            eta=0.0 if is_last else eta,
            variance_noise=noise if eta and not is_last else None,
            return_dict=False,
        )[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# Levels


@pytest.mark.parametrize("rule", RULES)
def test_levels_go_down_from_end_to_end(rule):
    levels = spread(rule, 9, -12.0, 4.0)
    torch.testing.assert_close(torch.tensor([levels[0], levels[-1]]), torch.tensor([4.0, -12.0]))
    assert all(later < earlier for earlier, later in pairwise(levels))
    assert spread(rule, 1, -12.0, 4.0) == pytest.approx([4.0])


def test_edms_rule_is_even_in_the_seventh_root():
    roots = [math.exp(gamma / 14) for gamma in spread("edm", 5, -10.0, 3.0)]
    steps = [b - a for a, b in pairwise(roots)]
    assert max(steps) - min(steps) < 1e-12


def test_a_models_own_levels_are_distinct():
    own = [float(gamma) for gamma in torch.linspace(-9, 4, 12)]
    chosen = nearest(spread("edm", 10, -9.0, 4.0), own)
    assert chosen == sorted(set(chosen), reverse=True)
    assert nearest(own[::-1], own) == list(range(11, -1, -1))
    with pytest.raises(NelboError, match="12 noise levels"):
        nearest([0.0] * 13, own)


# What is refused


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: make_solver("euler"), "no sampler 'euler'; there are ancestral, dpm-solver"),
        (lambda: make_solver("dpm-solver++", {"eta": 0.5}), "has no setting 'eta'"),
        (lambda: make_solver("ddim", {"eta": 1.5}), "eta is a number from 0"),
        (lambda: make_solver("heun", {"churn": -1.0}), "churn is a number from 0"),
        (lambda: Heun().n_levels(8), "odd number"),
        (lambda: Heun(churn=1.0).check(is_discrete=True), "levels of its own"),
        (lambda: DDIM().n_levels(0), "at least 1"),
        (lambda: spread("linear", 3, 0.0, 1.0), "no rule 'linear'"),
        (lambda: spread("edm", 3, 1.0, 1.0), "noisier gamma"),
    ],
)
def test_bad_settings_are_refused_in_one_line(make, problem):
    with pytest.raises(NelboError, match=problem) as caught:
        make()
    assert "\n" not in str(caught.value)
