"""Every noise schedule increases, hits its ends, inverts, and has the derivative it says it has."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nelbo.diffusion.noise_schedule import (
    NOISE_SCHEDULES,
    BetaLinear,
    Cosine,
    Learned,
    Linear,
    MonotoneNetwork,
    Table,
)
from nelbo.diffusion.noise_schedule_interface import NoiseSchedule
from nelbo.errors import NelboError


def uneven_table(gamma_0: float, gamma_1: float) -> Table:
    return Table([gamma_0 + (gamma_1 - gamma_0) * (i / 5) ** 1.7 for i in range(6)])


def curved_network(gamma_0: float, gamma_1: float) -> MonotoneNetwork:
    """Returns a monotone network as training might leave it, far from a line."""
    rng = torch.Generator().manual_seed(0)
    network = MonotoneNetwork(gamma_0, gamma_1, n_units=16)
    with torch.no_grad():
        for parameter, scale in ((network.slopes, 8), (network.offsets, 3), (network.heights, 10)):
            parameter.copy_(scale * torch.randn(16, generator=rng, dtype=torch.float64))
    return network


def bent_network(gamma_0: float, gamma_1: float) -> Learned:
    """Returns a learned schedule as training might leave it, with jumps and plateaus."""
    rng = torch.Generator().manual_seed(0)
    schedule = Learned(gamma_0, gamma_1, n_units=16)
    with torch.no_grad():
        schedule.log_slope.fill_(-3.0)
        for parameter in schedule.interior[1:]:
            parameter.add_(torch.randn(16, generator=rng, dtype=torch.float64))
    return schedule


# Members that are tried with parameters of their own, far from their initialisation.
PARAMETERS: dict[str, Callable[[float, float], NoiseSchedule]] = {
    "table": uneven_table,
    "learned": bent_network,
    "monotone_network": curved_network,
}
SCHEDULES: dict[str, Callable[[float, float], NoiseSchedule]] = {
    **{name: make for name, make in NOISE_SCHEDULES.items() if name not in PARAMETERS},
    **PARAMETERS,
    "linear_learned": lambda gamma_0, gamma_1: Linear(gamma_0, gamma_1, learned=True),
    "learned_fixed_ends": lambda gamma_0, gamma_1: Learned(gamma_0, gamma_1, n_units=6, learned_ends=False),
}
LEARNED = ["linear_learned", "learned", "learned_fixed_ends", "monotone_network"]
DRIFTING = ["monotone_network"]  # Its ends are wherever its weights put them.

every = pytest.mark.parametrize("name", SCHEDULES)
ends = st.tuples(st.floats(-20, 0), st.floats(0.5, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))
few = settings(max_examples=20)
fewer = settings(max_examples=5)  # Where each example is a bisection.


def times(n: int) -> torch.Tensor:
    return torch.arange(n + 1, dtype=torch.float64) / n


@every
@few
@given(ends)
def test_increases(name, ends):
    gammas = SCHEDULES[name](*ends)(times(512))
    assert gammas.dtype == torch.float64
    assert bool((gammas.diff() > 0).all())


@every
@few
@given(ends)
def test_hits_its_ends(name, ends):
    schedule = SCHEDULES[name](*ends)
    ends_found = torch.stack([schedule.gamma_0, schedule.gamma_1])
    torch.testing.assert_close(ends_found, schedule(times(1)), rtol=0, atol=0)
    if name not in DRIFTING:
        torch.testing.assert_close(ends_found, torch.tensor(ends, dtype=torch.float64), rtol=0, atol=1e-10)


@every
@few
@given(ends, st.integers(1, 50))
def test_a_grid_of_n_steps_has_its_points_at_the_multiples_of_one_nth(name, ends, n_steps):
    schedule = SCHEDULES[name](*ends)
    torch.testing.assert_close(schedule.grid(n_steps), schedule(times(n_steps)), rtol=0, atol=0)


@every
@fewer
@given(ends)
def test_inverts_both_ways(name, ends):
    schedule = SCHEDULES[name](*ends)
    t = times(100)
    torch.testing.assert_close(schedule.inverse(schedule(t)), t, rtol=0, atol=1e-9)
    gamma_0, gamma_1 = schedule.gamma_0.item(), schedule.gamma_1.item()
    gamma = torch.linspace(gamma_0, gamma_1, 100, dtype=torch.float64)
    torch.testing.assert_close(schedule(schedule.inverse(gamma)), gamma, rtol=0, atol=1e-9)
    beyond = torch.tensor([gamma_0 - 1, gamma_1 + 1], dtype=torch.float64)
    torch.testing.assert_close(schedule.inverse(beyond), times(1))


@every
@few
@given(ends)
def test_its_derivative_is_the_finite_difference(name, ends):
    schedule = SCHEDULES[name](*ends)
    t, h = (times(64)[:-1] + times(64)[1:]) / 2, 1e-6
    difference = (schedule(t + h) - schedule(t - h)) / (2 * h)
    torch.testing.assert_close(schedule.derivative(t), difference, rtol=1e-5, atol=1e-7)


@every
def test_its_derivative_integrates_to_the_distance_of_its_ends(name):
    schedule = SCHEDULES[name](-6.0, 5.0)
    t = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    torch.testing.assert_close(schedule.derivative(t).mean(), schedule.gamma_1 - schedule.gamma_0, rtol=1e-6, atol=0)


@every
@pytest.mark.parametrize("method", ["forward", "derivative"])
def test_any_shape_of_times_is_answered_one_by_one(name, method):
    evaluate = getattr(SCHEDULES[name](-13.3, 5.0), method)
    t = times(11).reshape(2, 3, 2)
    one_by_one = torch.stack([evaluate(u) for u in t.flatten()]).reshape(t.shape)
    torch.testing.assert_close(evaluate(t), one_by_one, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("method", ["forward", "derivative", "inverse"])
def test_gradients_with_respect_to_parameters_are_finite_differences(name, method):
    """Training the schedule goes through gamma, which the denoiser reads, and gamma', which weighs the loss."""
    schedule, h = SCHEDULES[name](-13.3, 5.0), 1e-6
    rng = torch.Generator().manual_seed(1)
    moved = {key: p.detach().clone() for key, p in schedule.named_parameters() if p.requires_grad}
    direction = {key: torch.randn(value.shape, generator=rng, dtype=torch.float64) for key, value in moved.items()}
    ends = schedule.gamma_0.item(), schedule.gamma_1.item()
    at = torch.linspace(*ends, 12, dtype=torch.float64)[1:-1] if method == "inverse" else times(8)

    def along(step: float) -> torch.Tensor:
        schedule.load_state_dict({key: p + step * direction[key] for key, p in moved.items()}, strict=False)
        return getattr(schedule, method)(at).sin().sum()

    difference = (along(h) - along(-h)).detach() / (2 * h)
    along(0.0).backward()
    gradients = {key: parameter.grad for key, parameter in schedule.named_parameters()}
    slope = sum((grad * direction[key]).sum() for key, grad in gradients.items() if grad is not None)
    torch.testing.assert_close(torch.as_tensor(slope), difference, rtol=1e-6, atol=1e-8)


@every
def test_it_is_learned_exactly_if_it_has_parameters_that_move(name):
    schedule = SCHEDULES[name](-13.3, 5.0)
    assert schedule.is_learned == (name in LEARNED)
    assert schedule.moves_its_ends == (name in LEARNED and name != "learned_fixed_ends")


@every
@fewer
@given(ends)
def test_the_inverse_has_the_gradient_of_the_implicit_function(name, ends):
    """Beyond the ends the inverse is 0 or 1, a constant."""
    schedule, t = SCHEDULES[name](*ends), (times(64)[:-1] + times(64)[1:]) / 2
    beyond = torch.tensor([schedule.gamma_0.item() - 1, schedule.gamma_1.item() + 1], dtype=torch.float64)
    gamma = torch.cat([schedule(t).detach(), beyond]).requires_grad_()
    (slope,) = torch.autograd.grad(schedule.inverse(gamma).sum(), gamma)
    torch.testing.assert_close(slope[:-2], 1 / schedule.derivative(t).detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(slope[-2:], torch.zeros(2, dtype=torch.float64), rtol=0, atol=0)


def test_the_inverse_of_a_line_has_the_gradient_of_its_closed_form():
    schedule = Linear(-13.3, 5.0, learned=True)
    gamma = torch.linspace(-13, 4.5, 9, dtype=torch.float64).requires_grad_()
    inputs = (gamma, schedule.start, schedule.width)
    closed = (gamma - schedule.start) / schedule.width
    expected = torch.autograd.grad(closed.sin().sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad(schedule.inverse(gamma).sin().sum(), inputs), expected)


def test_beta_linear_is_ddpms_schedule():
    """The last of DDPM's 1000 betas is reached at t = 1; in continuous time its sums become integrals."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    log_alpha_2 = torch.log1p(-betas).cumsum(0)
    gamma = torch.log(torch.expm1(-log_alpha_2))
    schedule = BetaLinear(gamma[0].item(), gamma[-1].item())
    torch.testing.assert_close(schedule.grid(999)[100:], gamma[100:], rtol=0, atol=0.02)


def test_the_ends_of_a_learned_schedule_do_not_depend_on_its_interior():
    schedule = bent_network(-13.3, 5.0)
    gradients = torch.autograd.grad(schedule.gamma_0 + schedule.gamma_1, schedule.interior, allow_unused=True)
    assert gradients == (None,) * 4
    ends = torch.stack([schedule.gamma_0, schedule.gamma_1])
    torch.testing.assert_close(schedule(times(1)), ends, rtol=0, atol=0)
    assert [name for name, schedule in SCHEDULES.items() if schedule(-13.3, 5.0).interior] == [
        "learned",
        "learned_fixed_ends",
    ]


@pytest.mark.parametrize("make", [Linear, Cosine, BetaLinear, Learned, MonotoneNetwork])
@pytest.mark.parametrize(
    "ends",
    [(5.0, -13.3), (1.0, 1.0), (math.nan, 5.0), (-13.3, math.nan), (-math.inf, 5.0), (-13.3, math.inf)],
)
def test_ends_that_do_not_increase_are_refused(make, ends):
    with pytest.raises(NelboError, match="increases"):
        make(*ends)


@pytest.mark.parametrize("rates", [(0.0, 1.0), (2.0, 1.0), (0.1, math.inf), (math.nan, 1.0)])
def test_rates_of_diffusion_that_do_not_rise_are_refused(rates):
    with pytest.raises(NelboError, match="rates of diffusion are positive and increase"):
        BetaLinear(-13.3, 5.0, *rates)


@pytest.mark.parametrize(
    "gammas", [[], [0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 2.0, 1.0], [0.0, math.nan], [-math.inf, 0.0, 1.0]]
)
def test_tables_that_do_not_increase_are_refused(gammas):
    with pytest.raises(NelboError, match="increasing"):
        Table(gammas)


@pytest.mark.parametrize("make", [Learned, MonotoneNetwork])
def test_a_network_without_units_is_refused(make):
    with pytest.raises(NelboError, match="at least one sigmoid, got n_units = 0"):
        make(n_units=0)
