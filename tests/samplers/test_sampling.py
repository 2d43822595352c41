"""nelbo.sample by solvers: from a Gaussian entry, on a model's own levels, one generator an image."""

import pytest
import torch

import nelbo
from nelbo.diffusion.gaussian_entry import ImageMoments
from nelbo.diffusion.noise_schedule import Linear
from nelbo.errors import NelboError
from nelbo.models.moments import image_moments, load_moments, save_moments
from nelbo.nets.closed_form import GaussianDenoiser
from nelbo.samplers.ddim import DDIM
from nelbo.samplers.levels import spread
from nelbo.samplers.route import route
from nelbo.samplers.table import SOLVERS, make_solver

SHAPE = (3, 8, 8)


@pytest.fixture
def model(exact_model):
    """A model of Gaussian images, mostly dark, red and coarse, with the best denoiser there is."""
    falling = 0.1 / (1 + torch.arange(8)[:, None] ** 2 + torch.arange(8) ** 2).double()
    moments = moments_of(falling)
    entry = moments.entry(torch.eye(3, dtype=torch.float64), n_prior=0.0)
    unit = torch.eye(192, dtype=torch.float64).reshape(192, *SHAPE)
    u = entry.basis.forward(unit).reshape(192, 192).T
    covariance = u.T @ torch.diag(entry.variance.flatten()) @ u
    mean = entry.basis.inverse(entry.mean[None])[0]
    return exact_model(GaussianDenoiser(mean, covariance), Linear(-13.3, 5.0))


def moments_of(falling):
    """The moments of infinitely many such images."""
    mean = torch.zeros(SHAPE, dtype=torch.float64)
    mean[:, 0, 0] = torch.tensor([1.0, -2.0, -3.0])
    products = mean[:, None] * mean[None]
    for channel in range(3):
        products[channel, channel] += falling
    n = 10**9
    return ImageMoments(n, n * mean, n * products)


@pytest.mark.parametrize("name", [*SOLVERS, "ancestral", "auto"])
def test_an_image_depends_on_its_seed_alone(model, name):
    images = nelbo.sample(model, 5, [3, 1, 2], sampler=name)
    alone = nelbo.sample(model, 5, [1], batch_size=1, sampler=name)
    assert (images[1:2].int() - alone.int()).abs().max() <= 1
    assert (images[0] != images[1]).any()


def test_few_calls_from_a_gaussian_entry_have_the_mean_and_the_spread_of_the_images(model):
    """Of Gaussian data the entry is exact at any noise level; standard noise at that level is far off."""
    without = nelbo.sample(model, 8, range(256), gammas=spread("edm", 8, -10.0, 2.0)).double() / 127.5 - 1
    falling = 0.1 / (1 + torch.arange(8)[:, None] ** 2 + torch.arange(8) ** 2).double()
    model.image_moments = moments_of(falling)
    pictures = nelbo.sample(model, 8, range(256)).double() / 127.5 - 1
    expected = model.denoiser.mean
    assert (pictures.mean(0) - expected).abs().max() < 0.05
    std = torch.diag(model.denoiser.axes @ torch.diag(model.denoiser.variances) @ model.denoiser.axes.T).sqrt()

    def off(images):
        return (images.std(0).flatten() / std - 1).abs().mean()

    assert off(pictures) < 0.12
    assert off(pictures) < off(without)


def test_network_calls_are_what_was_asked_for(model):
    for name in SOLVERS:
        calls = []
        nelbo.sample(model, 7, [0, 1], sampler=name, progress=calls.append)
        assert sum(calls) == 7, name


def test_a_solver_and_its_settings_may_be_given(model):
    one, other = (nelbo.sample(model, 6, [0], sampler=sampler) for sampler in ("ddim", DDIM(eta=0.0)))
    assert torch.equal(one, other)
    assert not torch.equal(one, nelbo.sample(model, 6, [0], sampler=DDIM(eta=1.0)))


def test_levels_may_be_given_and_a_discrete_models_are_its_own(model):
    gammas = [2.0, 0.0, -6.0]
    assert route(model, make_solver("ddim"), 3, gammas=gammas).gammas == gammas
    model.gammas = torch.linspace(-9, 5, 50, dtype=torch.float64)
    own = model.gammas.tolist()
    chosen = route(model, make_solver("dpm-solver++"), 8).gammas
    assert all(gamma in own for gamma in chosen)
    assert chosen[0] == own[-1]
    assert chosen[-1] == own[0]


def test_moments_are_kept(tmp_path, model):
    images = torch.randint(0, 255, (20, *SHAPE), dtype=torch.uint8)
    moments = image_moments(images)
    save_moments(moments, tmp_path / "moments.safetensors")
    again = load_moments(tmp_path / "moments.safetensors")
    assert again.n_blocks == 20
    torch.testing.assert_close(again.entry().variance, moments.entry().variance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"sampler": "euler"}, "no sampler 'euler'"),
        ({"sampler": "heun", "n_steps": 8}, "odd number"),
        ({"sampler": "ddim", "gammas": [1.0]}, "1 noise levels were given for 5 network calls"),
        ({"sampler": "ancestral", "gammas": [1.0]}, "ancestral sampling takes no entry and no gammas"),
        ({"n_steps": 0}, "at least 1 step"),
    ],
)
def test_what_a_sampler_cannot_do_is_refused(model, arguments, problem):
    with pytest.raises(NelboError, match=problem):
        nelbo.sample(model, **({"n_steps": 5, "seeds": [0]} | arguments))


def test_damaged_moments_are_refused(tmp_path):
    path = tmp_path / "moments.safetensors"
    path.write_bytes(b"no tensors")
    with pytest.raises(NelboError, match="damaged or holds no image moments"):
        load_moments(path)
