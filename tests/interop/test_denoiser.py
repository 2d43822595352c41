"""A closed-form denoiser costs the same whatever its author calls noise levels, latents and predictions."""

import inspect
import math

import pytest
import torch

import nelbo
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.noise_schedule import Linear
from nelbo.errors import NelboError
from nelbo.interop.coordinates import COORDINATES, PREDICTIONS
from nelbo.interop.units import PIXEL_SCALE
from nelbo.nets.closed_form import MixtureDenoiser

SHAPE, ENDS = (1, 4, 4), (-9.0, 6.0)
IMAGES = torch.randint(256, (6, *SHAPE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
DENOISER = MixtureDenoiser(to_unit(IMAGES[:3]))
PIXELS = [(-1.0, 1.0), (-0.5, 0.5), (0.0, 1.0), (0.0, 255.0)]


def theirs(coordinate, prediction, pixel_range):
    """Returns the closed form as another author's function, and the range of its levels.

    Every formula is written here once more, from the level to the two scales: y is their image, z' = a y + b eps.
    """
    low, high = pixel_range
    middle, scale = (low + high) / 2, (high - low) / 2 * PIXEL_SCALE

    def scales(level):
        if coordinate == "sigma":
            return torch.ones_like(level), level
        if coordinate == "t":
            return 1 - level, level
        snr = torch.exp(level if coordinate == "logsnr" else -level)
        return (snr / (1 + snr)).sqrt(), (1 / (1 + snr)).sqrt()

    def function(z, level):
        assert level.dtype == torch.float32
        a, b = (s[:, None, None, None] for s in scales(level.double()))
        gamma = 2 * torch.log(b / (scale * a))
        ours = (z.double() - a * middle) / b * torch.sigmoid(gamma).sqrt()
        eps = DENOISER(ours, gamma.flatten())
        y = (z.double() - b * eps) / a
        vp = (a * a + b * b).sqrt()
        return {"eps": eps, "x": y, "v": (a * eps - b * y) / vp, "flow": eps - y}[prediction].float()

    shifted = [gamma + 2 * math.log(scale) for gamma in ENDS]
    of = {"gamma": lambda g: g, "logsnr": lambda g: -g, "sigma": lambda g: math.exp(g / 2)}
    of["t"] = lambda g: math.exp(g / 2) / (1 + math.exp(g / 2))
    return function, tuple(sorted(of[coordinate](gamma) for gamma in shifted))


@pytest.mark.parametrize("pixel_range", PIXELS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("coordinate", COORDINATES)
def test_the_bound_is_that_of_the_closed_form(exact_model, coordinate, prediction, pixel_range):
    function, levels = theirs(coordinate, prediction, pixel_range)
    model = nelbo.from_denoiser(function, SHAPE, prediction, coordinate, levels, pixel_range=pixel_range)
    expected = nelbo.evaluate(exact_model(DENOISER, Linear(*ENDS)), IMAGES, precision="float32")
    found = nelbo.evaluate(model, IMAGES, precision="float32")
    for name, term in expected.terms.items():
        assert found.terms[name].bpd == pytest.approx(term.bpd, rel=2e-4, abs=1e-6), name
    assert found.bpd == pytest.approx(expected.bpd, rel=2e-4)


def test_coordinates_are_inverses():
    for name, coordinate in COORDINATES.items():
        gamma = torch.linspace(-12, 12, 25, dtype=torch.float64)
        torch.testing.assert_close(coordinate.to_gamma(coordinate.of_gamma(gamma)), gamma, rtol=1e-9, atol=1e-9)
        apart = 2 * (coordinate.log_b(gamma) - coordinate.log_a(gamma))
        torch.testing.assert_close(apart, gamma, rtol=1e-9, atol=1e-9, msg=name)


def test_it_is_sampled_and_scheduled():
    function, levels = theirs("sigma", "x", (-1.0, 1.0))
    model = nelbo.from_denoiser(function, SHAPE, range=levels)
    pictures = nelbo.sample(model, 50, range(6))
    nearest = (pictures[:, None].float() - IMAGES[None, :3].float()).abs().amax((2, 3, 4)).min(1).values
    assert nearest.max() <= 4  # The reverse chain of the closed form ends at one of its images.
    table = nelbo.error_table(model, IMAGES, n_gammas=20, precision="float32")
    assert nelbo.optimal_schedules(table, [5])[5].bpd < 12


def test_clipping_counts_from_the_middle_of_the_pixels():
    model = nelbo.from_denoiser(lambda z, sigma: 3 + 0 * z, SHAPE, pixel_range=(0.0, 1.0), clip=1.0)
    free = nelbo.from_denoiser(lambda z, sigma: 1 + 0 * z, SHAPE, pixel_range=(0.0, 1.0))
    z, gamma = torch.randn(2, *SHAPE), torch.tensor([-2.0, 1.0])
    torch.testing.assert_close(model.denoise(z, gamma), free.denoise(z, gamma), rtol=1e-4, atol=1e-5)


def test_classes_and_guidance_reach_the_function():
    def function(z, level, labels):
        return z * 0 + labels[:, None, None, None]

    plain, guided = (
        nelbo.from_denoiser(function, SHAPE, "eps", n_classes=3, null_class=3, guidance=w) for w in (None, 2.5)
    )
    z, gamma, labels = torch.zeros(2, *SHAPE), torch.zeros(2), torch.tensor([2, 0])
    assert plain.denoise(z, gamma, labels)[:, 0, 0, 0].tolist() == [2, 0]
    assert guided.denoise(z, gamma, labels)[:, 0, 0, 0].tolist() == [3 + 2.5 * (2 - 3), 3 + 2.5 * (0 - 3)]
    unconditional = nelbo.from_denoiser(function, SHAPE, "eps", null_class=3)
    assert unconditional.denoise(z, gamma)[:, 0, 0, 0].tolist() == [3, 3]
    with pytest.raises(NelboError, match="every image needs a label"):
        plain.denoise(z, gamma)


WRONG = {
    "a prediction": ({"prediction": "score"}, "prediction is one of eps, x, v, flow, got 'score'"),
    "a coordinate": ({"coordinate": "beta"}, "coordinate is one of gamma, logsnr, sigma, t, got 'beta'"),
    "an empty range": ({"range": (1.0, 1.0)}, "range is the lowest and the highest sigma strictly within"),
    "a sigma of zero": ({"range": (0.0, 80.0)}, r"strictly within \(0, inf\), got \(0.0, 80.0\)"),
    "a time of one": ({"coordinate": "t", "range": (0.1, 1.0)}, r"strictly within \(0, 1\)"),
    "three ends": ({"range": (1.0, 2.0, 3.0)}, "a lowest and a highest sigma"),
    "a shape": ({"image_shape": (8, 8)}, "image_shape is"),
    "latents": ({"image_shape": (4, 8, 8)}, "channels 1 or 3"),
    "a clip": ({"clip": 0.0}, "clip is a number above 0"),
    "pixels": ({"pixel_range": (1.0, 0.0)}, "pixel_range is"),
    "one pixel": ({"pixel_range": 1.0}, "pixel_range is"),
    "guidance": ({"guidance": 2.0}, "give n_classes= and null_class="),
    "classes": ({"n_classes": -1}, "n_classes is the number of classes"),
    "classes in letters": ({"n_classes": "ten"}, "n_classes is the number of classes, 0 for none, got 'ten'"),
    "a null class": ({"null_class": "none"}, "null_class is the label that stands for no class, a number, got 'none'"),
    "guidance in letters": ({"guidance": "strong"}, "guidance is a number, got 'strong'"),
    "a clip in letters": ({"clip": "x"}, "clip is a number above 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_settings_out_of_range_are_refused_in_one_line(name):
    settings, says = WRONG[name]
    with pytest.raises(NelboError, match=says) as caught:
        inspect.unwrap(nelbo.from_denoiser)(lambda z, level: z, **{"image_shape": SHAPE, **settings})  # Unchecked.
    assert len(str(caught.value).splitlines()) == 1


def test_an_output_of_another_shape_is_refused():
    model = nelbo.from_denoiser(lambda z, level: z.repeat(1, 2, 1, 1), SHAPE)
    with pytest.raises(NelboError, match=r"output has shape \(2, 2, 4, 4\), expected \(2, 1, 4, 4\)"):
        model.denoise(torch.zeros(2, *SHAPE), torch.zeros(2))
