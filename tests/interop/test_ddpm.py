"""A DDPM in our units costs what it costs in its own; timesteps, clipping, classes and betas; one line for errors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import nelbo
from nelbo.diffusion import gaussian
from nelbo.diffusion.bound import prior_kl
from nelbo.diffusion.decoder import discretised_gaussian, to_unit
from nelbo.errors import NelboError
from nelbo.interop.betas import gammas_of, named_betas
from nelbo.interop.units import DEFAULT_UNITS, PIXEL_SCALE
from nelbo.time_schedule.schedule import plain_schedule

SHAPE = (3, 4, 5)
BETAS = [0.0004, 0.01, 0.05, 0.2, 0.4, 0.6, 0.9]
IMAGES = torch.randint(256, (2, *SHAPE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
NOISE = torch.randn(len(BETAS), 2, *SHAPE, generator=torch.Generator().manual_seed(1))


def network(x, t):
    """A denoiser of no merit: a function of the latent and the timestep, often of images beyond the pixels' range."""
    shift = torch.sin(t.float())[:, None, None, None]
    return 0.7 * torch.tanh(2 * x) + 0.3 * x.roll(1, -1) + 0.2 * shift


def model_of(prediction="eps", variance="fixed_small", clip: float | None = 1.0, function=network, pixels=(-1.0, 1.0)):
    return nelbo.from_callable(function, BETAS, SHAPE, prediction, variance, clip, pixel_range=pixels)  # pyright: ignore[reportArgumentType]


def brute_force(images, prediction, clip, k=PIXEL_SCALE, betas=BETAS, pixels=(-1.0, 1.0)):
    """Returns the bound of a DDPM with fixed_small in nats: its steps, exit and prior, in its own units, as its papers
    write them (Ho et al., eq. 5 to 14), one number at a time over timesteps; ``pixels`` are what 0 and 255 are to them.
    """
    low, high = pixels
    middle, half = (low + high) / 2, (high - low) / 2
    y = low + (high - low) * images.double() / 255
    betas = torch.tensor(betas, dtype=torch.float64)
    bar = (1 - betas).cumprod(0)
    steps = []
    for t, beta in enumerate(betas):
        y_t = bar[t].sqrt() * y + (1 - bar[t]).sqrt() * NOISE[t].double()
        output = network(y_t.float(), torch.full((2,), t)).double()
        y_hat = {
            "eps": (y_t - (1 - bar[t]).sqrt() * output) / bar[t].sqrt(),
            "x": output,
            "v": bar[t].sqrt() * y_t - (1 - bar[t]).sqrt() * output,
        }[prediction]
        y_hat = y_hat if clip is None else y_hat.clamp(middle - clip * half, middle + clip * half)
        before = bar[t - 1] if t else torch.ones((), dtype=torch.float64)
        of_y = before.sqrt() * beta / (1 - bar[t])
        tilde = beta * (1 - before) / (1 - bar[t])
        if t == 0:
            std = torch.sqrt(betas[1] * (1 - bar[0]) / (1 - bar[1]))
            upper = torch.where(images == 255, math.inf, (y + half / 255 - y_hat) / std)
            lower = torch.where(images == 0, -math.inf, (y - half / 255 - y_hat) / std)
            steps.append(-torch.log(torch.special.ndtr(upper) - torch.special.ndtr(lower)))
        else:
            steps.append((of_y * (y - y_hat)).square() / (2 * tilde))
    end = (
        1 + ((half * k) ** 2 - 1) * bar[-1]
    )  # The variance of their latents for which our prior stands, around middle.
    prior = 0.5 * ((1 - bar[-1] + bar[-1] * (y - middle).square()) / end - 1 - torch.log((1 - bar[-1]) / end))
    return [term.flatten(1).sum(1) for term in (*steps, prior)]


def adapted(images, model):
    """Returns the same through the model: our latents, our gammas, our formulas."""
    x, gammas = to_unit(images), model.gammas
    steps = []
    for t in range(len(gammas)):
        gamma = gammas[t].expand(len(x))
        z = gaussian.diffuse(x.double(), NOISE[t].double(), gamma)
        eps_hat = model.denoise(z.float(), gamma).double()
        if t == 0:
            x_hat = gaussian.denoised(z, eps_hat, gamma)
            std = torch.tensor(model.exit_std, dtype=torch.float64)
            steps.append(-discretised_gaussian(x.double(), x_hat, std).flatten(1).sum(1))
        else:
            nu = model.predict(z.float(), gamma)[1]
            steps.append(model.reverse.step_kl(NOISE[t].double() - eps_hat, gammas[t - 1].expand(len(x)), gamma, nu))
    return [*steps, prior_kl(x, gammas[-1])]


@pytest.mark.parametrize("pixels", [(-1.0, 1.0), (-0.5, 0.5), (0.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("clip", [None, 1.0, 0.5])
@pytest.mark.parametrize("prediction", ["eps", "x", "v"])
def test_the_bound_is_the_one_in_its_own_units(prediction, clip, pixels):
    images = IMAGES // 2 + 64 if prediction == "eps" else IMAGES  # The exit's logarithm has its digits near the mean.
    ours = adapted(images, model_of(prediction, clip=clip, pixels=pixels))
    theirs = brute_force(images, prediction, clip, pixels=pixels)
    for t, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if bool(b.isfinite().all()):  # Brute force rounds what is far in the tail to 0.
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7, msg=lambda m, t=t: f"timestep {t}: {m}")
        else:
            assert t == 0


@pytest.mark.parametrize("pixels", [(-1.0, 1.0), (-0.5, 0.5), (0.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("variance", ["fixed_large", "learned_range"])
def test_a_step_of_variance_beta_has_the_beta_of_its_own_units(variance, pixels):
    def outputs(x, t):
        both = torch.cat([network(x, t), torch.sin(3 * x)], 1)  # Pixels and nu in [-1, 1].
        return both if variance == "learned_range" else both[:, : SHAPE[0]]

    model = model_of("x", variance, clip=None, function=outputs, pixels=pixels)
    half = (pixels[1] - pixels[0]) / 2
    y = pixels[0] + 2 * half * IMAGES.double() / 255
    betas = torch.tensor(BETAS, dtype=torch.float64)
    bar = (1 - betas).cumprod(0)
    ours, kernels = adapted(IMAGES, model), plain_schedule(model, len(BETAS))
    for t in range(1, len(BETAS)):
        y_t = bar[t].sqrt() * y + (1 - bar[t]).sqrt() * NOISE[t].double()
        y_hat = network(y_t.float(), torch.full((2,), t)).double()
        nu = (torch.sin(3 * y_t) + 1) / 2 if variance == "learned_range" else torch.ones_like(y)
        tilde = betas[t] * (1 - bar[t - 1]) / (1 - bar[t])
        log_variance = nu * betas[t].log() + (1 - nu) * tilde.log()
        gap = bar[t - 1].sqrt() * betas[t] / (1 - bar[t]) * (y - y_hat)
        kl = 0.5 * (log_variance - tilde.log() - 1 + (tilde + gap.square()) / log_variance.exp())
        torch.testing.assert_close(ours[t], kl.flatten(1).sum(1), rtol=1e-4, atol=1e-7, msg=lambda m, t=t: f"{t}: {m}")
        pair = model.gammas[t - 1 : t], model.gammas[t : t + 1], nu[:1]
        ratios = [kernel.log_ratio(*pair) for kernel in (model.reverse, kernels.kernel(t - 1))]
        torch.testing.assert_close(*ratios)


def test_the_prior_differs_from_theirs_by_the_scale_of_the_pixels_alone():
    ours, theirs = prior_kl(to_unit(IMAGES), model_of().gammas[-1]), brute_force(IMAGES, "eps", 1.0, k=1.0)[-1]
    full = 0.5 * math.log(1 + (PIXEL_SCALE**2 - 1) * math.prod(1 - beta for beta in BETAS)) * math.prod(SHAPE)
    assert bool(((ours - theirs).abs() <= full).all())
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    assert (PIXEL_SCALE**2 - 1) * torch.exp(torch.log1p(-betas).sum()) < 4e-7


def test_pixels_and_cells_are_the_same_points():
    values = torch.arange(256)
    theirs = values.double() / 127.5 - 1
    torch.testing.assert_close(PIXEL_SCALE * to_unit(values).double(), theirs, rtol=0, atol=1e-7)
    assert math.isclose(PIXEL_SCALE / 256, 1 / 255, rel_tol=1e-15)


@pytest.mark.parametrize("prediction", ["eps", "x", "v"])
def test_a_latent_reaches_the_network_in_its_own_units(prediction):
    seen = []

    def spy(x, t):
        seen.append((x, t))
        return network(x, t)

    model = model_of(prediction, function=spy)
    eps, t = NOISE[0], torch.tensor([5, 1])
    bar = (1 - torch.tensor(BETAS, dtype=torch.float64)).cumprod(0)[t][:, None, None, None]
    model.denoise(gaussian.diffuse(to_unit(IMAGES), eps, model.gammas[t]), model.gammas[t])
    expected = bar.sqrt() * (IMAGES / 127.5 - 1) + (1 - bar).sqrt() * eps
    torch.testing.assert_close(seen[0][0], expected.float(), rtol=1e-5, atol=1e-6)
    assert seen[0][1].tolist() == [5, 1]


@given(st.sampled_from(["linear", "cosine"]), st.integers(30, 400))
def test_gammas_are_those_of_the_betas(name, n_steps):
    betas = named_betas(name, n_steps)
    bar = 1.0
    for beta, gamma in zip(betas.tolist(), gammas_of(betas).tolist(), strict=True):
        bar *= 1 - beta
        assert gamma == pytest.approx(math.log((1 - bar) / bar), rel=1e-9, abs=1e-9)


def test_gammas_are_found_again_and_others_refused():
    model = model_of()
    assert model.timesteps_at(model.gammas.flip(0)).tolist() == list(range(len(BETAS)))[::-1]
    times = torch.arange(len(BETAS), dtype=torch.float64) / (len(BETAS) - 1)
    assert model.timesteps_at(model.noise_schedule(times)).tolist() == list(range(len(BETAS)))
    for wrong in (model.gammas[0] - 1, model.gammas[3] + 0.01, model.gammas[-1] + 1, torch.tensor(math.nan)):
        with pytest.raises(NelboError, match="the 7 gammas of its own timesteps alone") as caught:
            model.denoise(NOISE[0], wrong.double().expand(2))
        assert len(str(caught.value).splitlines()) == 1


def test_a_terminal_snr_of_zero_leaves_its_timestep_out():
    model = nelbo.from_callable(network, [*BETAS, 1.0], SHAPE)
    torch.testing.assert_close(model.gammas, model_of().gammas)
    assert model.n_timesteps == len(BETAS) + 1


def test_clipping_keeps_the_noise_where_it_does_not_clip():
    free, clipped = model_of(clip=None), model_of(clip=1.0)
    gamma = free.gammas[2].expand(2)
    z = gaussian.diffuse(to_unit(IMAGES), NOISE[2], gamma)
    eps_free, eps_clipped = free.denoise(z, gamma), clipped.denoise(z, gamma)
    x_free, x_clipped = (gaussian.denoised(z, eps, gamma) for eps in (eps_free, eps_clipped))
    inside = x_free.abs() <= 1 / PIXEL_SCALE
    assert bool(inside.any())
    assert not bool(inside.all())
    assert torch.equal(eps_clipped[inside], eps_free[inside])
    torch.testing.assert_close(x_clipped, x_free.clamp(-1 / PIXEL_SCALE, 1 / PIXEL_SCALE), rtol=1e-5, atol=1e-5)


def test_learned_variances_are_halves_of_the_output():
    model = model_of(variance="learned_range", function=lambda x, t: torch.cat([network(x, t), x], dim=1))
    gamma = model.gammas[4].expand(2)
    eps_hat, nu = model.predict(NOISE[0], gamma)
    scale = gaussian.sigma(gamma + DEFAULT_UNITS.gamma_shift) / gaussian.sigma(gamma)
    torch.testing.assert_close(nu, (gaussian.over_image(scale, NOISE[0]) * NOISE[0] + 1) / 2)
    torch.testing.assert_close(eps_hat, model_of().denoise(NOISE[0], gamma))
    assert model_of().predict(NOISE[0], gamma)[1] is None


@pytest.mark.parametrize(
    ("variance", "kernel"),
    [("fixed_small", "posterior"), ("fixed_large", "forward"), ("learned_range", "learned-range")],
)
def test_the_kernel_goes_by_the_variance(variance, kernel):
    assert model_of(variance=variance).reverse_kernel == kernel


def test_evaluation_and_sampling_take_a_callable():
    model = model_of()
    n_steps = len(BETAS) - 1
    images = IMAGES.repeat(4, 1, 1, 1)
    result = nelbo.evaluate(model, images, n_steps=n_steps, n_passes=n_steps, precision="float32")
    assert math.isfinite(result.bpd)
    assert nelbo.sample(model, n_steps, range(2)).shape == (2, *SHAPE)


def test_a_module_keeps_its_parameters():
    conv = nn.Conv2d(3, 3, 1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x, t):
            return self.conv(x)

    model = nelbo.from_callable(Net(), BETAS, SHAPE)
    assert {id(p) for p in model.parameters()} == {id(p) for p in conv.parameters()}
    assert not model.training


def test_classes_reach_the_network():
    def shifted(x, t, labels):
        return x + labels[:, None, None, None]

    model = nelbo.from_callable(shifted, BETAS, SHAPE, clip=None, n_classes=3)
    gamma = model.gammas[3].expand(2)
    apart = model.denoise(NOISE[0], gamma, torch.tensor([2, 0])) - model.denoise(NOISE[0], gamma, torch.tensor([0, 0]))
    torch.testing.assert_close(apart, torch.tensor([2.0, 0.0])[:, None, None, None].expand(2, *SHAPE))


LABELS = {
    "missing": (3, None, "has 3 classes"),
    "unexpected": (0, torch.tensor([0, 1]), "has no classes"),
    "too few": (3, torch.tensor([0]), r"of shape \(2,\)"),
    "too large": (3, torch.tensor([0, 3]), "from 0 to 2"),
    "negative": (3, torch.tensor([0, -1]), "from 0 to 2"),
}


@pytest.mark.parametrize("name", LABELS)
def test_wrong_labels_are_refused(name):
    n_classes, labels, says = LABELS[name]
    function = (lambda x, t, labels: x) if n_classes else (lambda x, t: x)
    model = nelbo.from_callable(function, BETAS, SHAPE, n_classes=n_classes)
    with pytest.raises(NelboError, match=says):
        model.check_labels(labels, len(IMAGES))


@pytest.mark.parametrize(("n_classes", "labels"), [(3, None), (0, torch.tensor([0, 1]))])
def test_a_network_is_asked_with_labels_where_it_has_classes_and_else_without(n_classes, labels):
    model = nelbo.from_callable(lambda x, t, labels=None: x, BETAS, SHAPE, n_classes=n_classes)
    with pytest.raises(NelboError, match=f"has {n_classes} classes, so its network takes"):
        model.denoise(NOISE[0], model.gammas[3].expand(2), labels)


def test_labels_in_range_are_not_looked_at_by_the_denoiser():
    """A GPU would have to wait for them; on the meta device there are no values to look at."""
    model = nelbo.from_callable(lambda x, t, labels: x, BETAS, SHAPE, n_classes=3)
    gamma, labels = model.gammas[3].expand(2), torch.tensor([0, 2])
    model.denoise(NOISE[0], gamma, labels.to("meta"))


WRONG_BETAS = {
    "zero": ([0.1, 0.0, 0.2], "got 0.0 at timestep 1"),
    "negative": ([-0.1, 0.2], "got -0.1 at timestep 0"),
    "one in between": ([0.1, 1.0, 0.2], "got 1.0 at timestep 1"),
    "above one": ([0.1, 1.5], "got 1.5 at timestep 1"),
    "not a number": ([0.1, math.nan], "got nan at timestep 1"),
    "only one": ([0.1], "two or more"),
    "none": ([], "two or more"),
    "a table": ([[0.1, 0.2]], "one row"),
    "too small": ([0.1, 1e-20], "the beta of timestep 1, 1e-20, is too small"),
}


@pytest.mark.parametrize("name", WRONG_BETAS)
def test_betas_out_of_range_are_refused(name):
    betas, says = WRONG_BETAS[name]
    with pytest.raises(NelboError, match=says) as caught:
        nelbo.from_callable(network, torch.tensor(betas, dtype=torch.float64), SHAPE)
    assert len(str(caught.value).splitlines()) == 1


WRONG_OUTPUTS = {
    "another shape": (lambda x, t: x[:, :1], "has shape (2, 1, 4, 5), expected (2, 3, 4, 5)"),
    "a vector": (lambda x, t: x.flatten(), "must return a tensor"),
    "a tuple": (lambda x, t: (x,), "got tuple"),
}


@pytest.mark.parametrize("name", WRONG_OUTPUTS)
def test_wrong_outputs_are_refused(name):
    function, says = WRONG_OUTPUTS[name]
    model = nelbo.from_callable(function, BETAS, SHAPE)
    with pytest.raises(NelboError) as caught:
        model.denoise(NOISE[0], model.gammas[3].expand(2))
    assert says in str(caught.value)


def test_an_output_that_is_no_number_is_refused():
    model = nelbo.from_callable(lambda x, t: x * math.nan, BETAS, SHAPE)
    with pytest.raises(NelboError, match="not finite"):
        nelbo.evaluate(model, IMAGES, n_steps=len(BETAS) - 1, precision="float32")


@pytest.mark.parametrize(("setting", "value"), [("clip", -1.0), ("image_shape", (4, 8, 8)), ("n_classes", -1)])
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(NelboError, match=f"from_callable: {setting}"):
        nelbo.from_callable(network, BETAS, **{"image_shape": SHAPE, setting: value})
