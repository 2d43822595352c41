"""What `from_callable` finds in a function, how it calls it, and what it refuses."""

import functools
import math
import types

import pytest
import torch
from torch import nn

import nelbo
from nelbo.errors import NelboError
from nelbo.interop.betas import named_betas
from nelbo.interop.foreign_net import FirstLayer, first_layer_in_float32
from nelbo.interop.found import found_in

SHAPE = (3, 4, 4)
BETAS = [0.0004, 0.01, 0.05, 0.2, 0.4]


def batch_norm():
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))


net = batch_norm()


def of_global(x, t):
    return net(x)


class Wrapper:
    """An object that is called, or whose method is."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x, t):
        return self.inner(x)

    def predict(self, x, t):
        return self(x, t)


class Hiding(nn.Module):
    """A network that holds another one where torch does not look."""

    def __init__(self, inner):
        super().__init__()
        self.inner = [inner]

    def forward(self, x, t):
        return self.inner[0](x)


class ByGlobal:
    """An object whose method uses a global network."""

    def __call__(self, x, t):
        return of_global(x, t)


def twice(function):
    @functools.wraps(function)
    def wrapped(*arguments):
        return function(*arguments)

    return wrapped


WAYS = {
    "a closure": lambda inner: lambda x, t: inner(x),
    "a closure of a closure": lambda inner: (lambda f: lambda x, t: f(x))(lambda x: inner(x)),
    "a default": lambda inner: lambda x, t, inner=inner: inner(x),
    "a partial": lambda inner: functools.partial(lambda net, x, t: net(x), inner),
    "a keyword of a partial": lambda inner: functools.partial(lambda x, t, net: net(x), net=inner),
    "an object": Wrapper,
    "an attribute of an attribute": lambda inner: Wrapper(types.SimpleNamespace(f=inner).f),
    "a bound method": lambda inner: Wrapper(inner).predict,
    "a container": lambda inner: lambda x, t, nets={"a": [inner]}: nets["a"][0](x),
    "a network's list": Hiding,
    "a decorated function": lambda inner: twice(lambda x, t: inner(x)),
    "a network": lambda inner: inner,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_network_is_found_evaluated_and_moved(way):
    inner = batch_norm()
    found, _ = found_in(WAYS[way](inner))
    assert any(inner is sub for module in found for sub in module.modules()) or "list" in way
    if way == "a network":
        return
    model = nelbo.from_callable(WAYS[way](inner), BETAS, SHAPE)
    assert not any(module.training for module in inner.modules())
    assert {id(p) for p in inner.parameters()} <= {id(p) for p in model.parameters()}
    model.to("meta")
    assert all(p.is_meta for p in inner.parameters())


@pytest.mark.parametrize("function", [of_global, ByGlobal(), lambda x, t: of_global(x, t), Wrapper(of_global)])
def test_a_global_network_is_found_through_functions_and_methods(function):
    assert found_in(function)[0] == [net]


def test_only_the_outermost_networks_are_listed_and_other_tensors_apart():
    whole, scale = batch_norm(), torch.ones(2)
    modules, tensors = found_in(lambda x, t: whole[0](x) * scale + whole(x) + [whole[0].weight][0])
    assert modules == [whole]
    assert [tensor is scale for tensor in tensors] == [True]
    head = whole[0]
    assert found_in(lambda x, t: head(x) + whole(x))[0] == [whole]


def test_the_bound_of_a_network_in_training_mode_is_that_in_evaluation_mode():
    inner, images = batch_norm().train(), torch.randint(256, (8, *SHAPE), dtype=torch.uint8)
    bounds = [
        nelbo.evaluate(
            nelbo.from_callable(lambda x, t: inner(x), BETAS, SHAPE), images, batch_size=size, n_passes=4
        ).bpd
        for size in (8, 3)
    ]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-5)


def test_times_are_what_the_network_was_trained_with():
    seen = []

    def function(x, t):
        seen.append(t)
        return x

    for time in ("index", "index/T", lambda t: (t + 1) / 5):
        model = nelbo.from_callable(function, BETAS, SHAPE, time=time)
        model.denoise(torch.zeros(2, *SHAPE), model.gammas[[0, 3]])
    assert seen[0].tolist() == [0, 3]
    assert seen[0].dtype == torch.int64
    assert seen[1].tolist() == [0.0, pytest.approx(3 / 5)]
    assert seen[2].tolist() == [pytest.approx(1 / 5), pytest.approx(4 / 5)]


def test_guidance_mixes_the_noise_and_leaves_the_variances():
    def function(x, t, labels):
        return torch.cat([0 * x + labels[:, None, None, None], 0 * x + 0.1 * labels[:, None, None, None]], dim=1)

    options = {"variance": "learned_range", "clip": None, "n_classes": 3, "null_class": 3}
    model = nelbo.from_callable(function, BETAS, SHAPE, **options, guidance=3.0)
    eps_hat, nu = model.predict(torch.zeros(1, *SHAPE), model.gammas[[2]], torch.tensor([1]))
    assert eps_hat.unique().tolist() == [3 + 3 * (1 - 3)]
    assert nu is not None
    assert nu.unique().tolist() == [pytest.approx((0.1 + 1) / 2)]


def test_alphas_cumprod_are_the_betas():
    betas = named_betas("cosine", 100)
    plain = nelbo.from_callable(of_global, betas, SHAPE)
    product = nelbo.from_callable(of_global, image_shape=SHAPE, alphas_cumprod=(1 - betas).cumprod(0))
    torch.testing.assert_close(product.gammas, plain.gammas, rtol=1e-9, atol=1e-9)
    ended = nelbo.from_callable(of_global, image_shape=SHAPE, alphas_cumprod=[0.9, 0.5, 0.1, 0.0])
    assert len(ended.gammas) == 3


LINEAR = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
BAR = (1 - LINEAR).cumprod(0)
MISTAKEN = {
    "alphas for betas": ({"betas": 1 - LINEAR}, "decrease, as alphas"),
    "a product for betas": ({"betas": BAR}, "decrease, as alphas"),
    "a variance for betas": ({"betas": 1 - BAR}, "as the noise's variance"),
    "a variance of cosine betas for betas": (
        {"betas": 1 - (1 - named_betas("cosine", 1000)).cumprod(0)},
        "as the noise's variance",
    ),
    "betas for a product": ({"alphas_cumprod": LINEAR}, "pass betas as betas="),
    "alphas for a product": ({"alphas_cumprod": 1 - LINEAR}, "pass betas as betas="),
    "a variance for a product": ({"alphas_cumprod": 1 - BAR}, "pass betas as betas="),
    "both": ({"betas": LINEAR, "alphas_cumprod": BAR}, "one of the two"),
    "neither": ({}, "one of the two"),
    "a time": ({"betas": LINEAR, "time": lambda t: t[:3]}, "a time for each of the 1000"),
    "a time that fails": ({"betas": LINEAR, "time": lambda t: t / (1 / 0)}, "time= fails on the timesteps 0 .. 999"),
    "guidance": ({"betas": LINEAR, "guidance": 2.0}, "give n_classes= and null_class="),
    "pixels": ({"betas": LINEAR, "pixel_range": (1.0, -1.0)}, "low below high"),
}


@pytest.mark.parametrize("name", MISTAKEN)
def test_one_thing_given_for_another_is_refused_in_one_line(name):
    settings, says = MISTAKEN[name]
    with pytest.raises(NelboError, match=says) as caught:
        nelbo.from_callable(of_global, image_shape=SHAPE, **settings)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("betas", [LINEAR, named_betas("cosine", 50), named_betas("cosine", 4000), [0.1, 0.1, 0.1]])
def test_betas_of_every_schedule_are_taken(betas):
    assert nelbo.from_callable(of_global, betas, SHAPE).n_timesteps == len(betas)


def three(x, t, y):
    return x


def two(x, t):
    return x


ARGUMENTS = {
    "a third without classes": (three, {}, "the function takes a third argument: if it is the label, give n_classes="),
    "only two with classes": (two, {"n_classes": 3}, "it takes no third argument"),
    "only two with a null class": (two, {"null_class": 3}, "it takes no third argument"),
    "one": (lambda x: x, {}, "called as f(x, t), and it does not take these"),
    "a network of three": (Hiding, {}, "does not take these"),
    "no function": (3, {}, "expected a function of"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_function_of_other_arguments_is_refused(name):
    function, settings, says = ARGUMENTS[name]
    with pytest.raises(NelboError) as caught:
        getattr(nelbo.from_callable, "__wrapped__", nelbo.from_callable)(function, BETAS, SHAPE, **settings)
    assert says in str(caught.value)


def test_an_optional_third_argument_may_be_left_out():
    nelbo.from_callable(lambda x, t, x_self_cond=None: x, BETAS, SHAPE)
    nelbo.from_callable(lambda *arguments: arguments[0], BETAS, SHAPE)


def test_a_function_that_fails_is_one_line_and_keeps_its_cause():
    model = nelbo.from_callable(lambda x, t: nn.Conv2d(1, 1, 1)(x), BETAS, SHAPE)
    with pytest.raises(NelboError, match=r"fails on latents of shape \(2, 3, 4, 4\): RuntimeError: ") as caught:
        model.denoise(torch.zeros(2, *SHAPE), model.gammas[[0, 0]])
    assert len(str(caught.value).splitlines()) == 1
    assert isinstance(caught.value.__cause__, RuntimeError)


ANSWERS = {
    "a tuple": (lambda x, t: (x,), "got tuple: wrap it to return the tensor alone"),
    "variances": (lambda x, t: torch.cat([x, x], 1), "give variance='learned_range'"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_another_answer_is_refused_with_its_cure(name):
    function, says = ANSWERS[name]
    model = nelbo.from_callable(function, BETAS, SHAPE)
    with pytest.raises(NelboError) as caught:
        model.denoise(torch.zeros(2, *SHAPE), model.gammas[[0, 0]])
    assert says in str(caught.value)


class Bare(nn.Module):
    """A small network whose embedding of the time comes before its first layer, as in most."""

    def __init__(self, inner):
        super().__init__()
        self.time, self.inner = nn.Linear(1, 3), inner
        self.dtypes = []

    def forward(self, x, t):
        shift = self.time(t[:, None].float())
        self.dtypes = [shift.dtype]
        for layer in self.inner:
            x = layer(x)
            self.dtypes.append(x.dtype)
        return x + shift[:, :, None, None]


def test_a_network_without_values_is_refused():
    empty = Bare(nn.Sequential(nn.Conv2d(3, 3, 1))).to("meta")
    for wrap in (lambda: nelbo.from_callable(empty, BETAS, SHAPE), lambda: nelbo.from_denoiser(empty, SHAPE)):
        with pytest.raises(NelboError, match=r"weight is on torch's device 'meta'.*load its weights"):
            wrap()


def test_the_first_layer_over_an_image_stays_in_float32():
    inner = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1))
    patches = nn.Sequential(nn.Flatten(2), nn.Linear(16, 16), nn.Linear(16, 16), nn.Unflatten(2, (4, 4)))
    for layers in (inner, patches):
        bare = Bare(layers)
        model = nelbo.from_callable(bare, BETAS, SHAPE)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            model.denoise(torch.randn(2, *SHAPE), model.gammas[[0, 2]])
        first = 1 if layers is inner else 2  # After the flattening.
        assert bare.dtypes[0] == torch.bfloat16
        assert bare.dtypes[first] == torch.float32
        assert bare.dtypes[-1] == torch.bfloat16


def test_nothing_is_watched_without_autocast():
    assert not isinstance(first_layer_in_float32("cpu"), FirstLayer)
    with torch.autocast("cpu", torch.bfloat16):
        assert isinstance(first_layer_in_float32("cpu"), FirstLayer)


def test_pixels_in_another_range_without_saying_so_cost_bits():
    """What is at stake: a network of [-0.5, 0.5], wrapped as if it were one of [-1, 1]."""
    images = torch.randint(100, 140, (8, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def closed_form(x, t):  # The data are near grey, half as far from it as in [-1, 1].
        bar = (1 - LINEAR).cumprod(0)[t][:, None, None, None]
        variance = (0.5 * images.double().div(127.5).sub(1).square().mean().sqrt()) ** 2
        return (x * (1 - bar).sqrt() / (bar * variance + 1 - bar)).float()

    right, wrong = (
        nelbo.evaluate(
            nelbo.from_callable(closed_form, LINEAR, SHAPE, pixel_range=pixels),
            images,
            precision="float32",
            n_passes=8,
        ).bpd
        for pixels in ((-0.5, 0.5), (-1.0, 1.0))
    )
    assert math.isfinite(right)
    assert wrong > right + 0.1
