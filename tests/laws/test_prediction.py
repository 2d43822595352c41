"""eps, x and v are one prediction in three forms: each determines the others, in float64 to the last digits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nelbo.diffusion.bound import squared_error
from nelbo.diffusion.gaussian import alpha, diffuse, sigma
from nelbo.diffusion.noise_schedule import Linear
from nelbo.diffusion.prediction import PREDICTIONS, of_noise, to_noise
from nelbo.models.config import ModelConfig
from nelbo.models.vdm import VDM

from fixtures.networks import small_unet

SHAPE = (3, 2, 2)
gammas = st.lists(st.floats(-13.3, 5.0), min_size=1, max_size=4)
every = pytest.mark.parametrize("prediction", PREDICTIONS)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def column(values):
    return values.reshape(-1, 1, 1, 1)


@every
@given(gammas=gammas)
def test_to_and_of_are_inverses(prediction, gammas):
    gamma = torch.tensor(gammas, dtype=torch.float64)
    z, value = normal(len(gamma), *SHAPE), normal(len(gamma), *SHAPE, seed=1)
    there = of_noise(prediction, to_noise(prediction, value, z, gamma), z, gamma)
    back = to_noise(prediction, of_noise(prediction, value, z, gamma), z, gamma)
    torch.testing.assert_close(there, value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back, value, rtol=1e-9, atol=1e-9)


@given(gammas=gammas)
def test_the_truth_is_the_truth_in_every_form(gammas):
    gamma = torch.tensor(gammas, dtype=torch.float64)
    x, eps = normal(len(gamma), *SHAPE), normal(len(gamma), *SHAPE, seed=1)
    v = column(alpha(gamma)) * eps - column(sigma(gamma)) * x
    z = diffuse(x, eps, gamma)
    for prediction, truth in {"eps": eps, "x": x, "v": v}.items():
        torch.testing.assert_close(to_noise(prediction, truth, z, gamma), eps, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(of_noise(prediction, eps, z, gamma), truth, rtol=1e-9, atol=1e-9)


@every
@given(gammas=gammas)
def test_errors_weigh_as_stated(prediction, gammas):
    gamma = torch.tensor(gammas, dtype=torch.float64)
    z, right, error = (normal(len(gamma), *SHAPE, seed=k) for k in range(3))
    change = to_noise(prediction, right + error, z, gamma) - to_noise(prediction, right, z, gamma)
    weight = {"eps": torch.ones_like(gamma), "x": torch.exp(-gamma), "v": alpha(gamma).square()}[prediction]
    sums = [part.square().sum((1, 2, 3)) for part in (change, error)]
    torch.testing.assert_close(sums[0], weight * sums[1], rtol=1e-8, atol=1e-8)


@every
def test_a_network_that_states_the_same_noise_in_another_form_is_the_same_model(prediction):
    """Its predictions, and with them its bound, whatever the form; in float64."""
    config = ModelConfig(image_shape=SHAPE, net=small_unet(fourier=()))
    of_eps, other = VDM(config), VDM(config.model_copy(update={"prediction": prediction}))
    truth = lambda z: torch.tanh(z.roll(1, -1))  # noqa: E731
    of_eps.net.forward = lambda z, gamma, *_: truth(z)
    other.net.forward = lambda z, gamma, *_: of_noise(prediction, truth(z), z, gamma.double())
    schedule, x, eps = Linear(-13.3, 5.0), normal(6, *SHAPE).tanh(), normal(6, *SHAPE, seed=1)
    gamma = schedule(torch.linspace(0, 1, 6, dtype=torch.float64)).float().double()  # What the network is told.
    expected = squared_error(of_eps.given(), x, eps, gamma)
    torch.testing.assert_close(squared_error(other.given(), x, eps, gamma), expected, rtol=1e-9, atol=0)
    z = diffuse(x, eps, gamma)
    torch.testing.assert_close(other.denoise(z, gamma), of_eps.denoise(z, gamma), rtol=1e-9, atol=1e-9)
