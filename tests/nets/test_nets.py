"""The networks: what they start as, what they cost, what they treat alike, and that Fourier features see one bit."""

import math

import pytest
import torch

from nelbo.errors import NelboError
from nelbo.nets.fourier import fourier_features, sinusoidal_embedding
from nelbo.nets.unet import UNet
from nelbo.nets.unet_multiscale import UNetMultiscale, _grown
from nelbo.runtime.device import autocast, set_precision
from nelbo.train.cost import n_parameters
from nelbo.train.presets import PRESETS

RANGE = (-13.3, 5.0)


def unet(n_image_channels=3, attention=False, dropout=0.0):
    """Returns a small one; with 32 channels its norms would take away the shift that tells it gamma."""
    return UNet(n_image_channels, 64, 2, attention, dropout, (7, 8), RANGE)


def unet_multiscale(n_image_channels=3, patch=1, dropout=0.0):
    return UNetMultiscale(n_image_channels, patch, (16, 32), (1, 2), (2, 1), (0, 2), 32, dropout, (7, 8), RANGE)


NETS = {
    "unet": unet,
    "unet_with_attention": lambda n=3: unet(n, attention=True),
    "unet_multiscale": unet_multiscale,
    "unet_multiscale_in_patches": lambda n=3: unet_multiscale(n, patch=2),
}
every = pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())


def randomised(net, scale=0.05):
    """Returns the network with no layer at zero, as after some training."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=rng))
    return net.eval()


def inputs(n_image_channels=3, n=4, height=8, width=12):
    z = torch.randn(n, n_image_channels, height, width, generator=torch.Generator().manual_seed(1))
    return z, torch.linspace(*RANGE, n)


@every
@pytest.mark.parametrize("n_image_channels", [1, 3])
@pytest.mark.parametrize("n", [1, 3])
def test_the_output_has_the_shape_of_the_latents(make, n_image_channels, n):
    z, gamma = inputs(n_image_channels, n)
    output = make(n_image_channels)(z, gamma)
    assert output.shape == z.shape
    assert output.dtype == torch.float32


def test_the_unet_starts_as_the_identity_and_the_multiscale_one_as_zero():
    z, gamma = inputs()
    for attention in (False, True):
        torch.testing.assert_close(unet(attention=attention)(z, gamma), z, rtol=0, atol=0)
    for patch in (1, 2):
        torch.testing.assert_close(unet_multiscale(patch=patch)(z, gamma), torch.zeros_like(z), rtol=0, atol=0)


@every
def test_images_do_not_see_each_other(make):
    net, (z, gamma) = randomised(make()), inputs()
    output, order = net(z, gamma), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(net(z[order], gamma[order]), output[order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(net(z[1:2], gamma[1:2]), output[1:2], rtol=1e-5, atol=1e-5)


@every
def test_the_output_depends_on_the_latent_and_on_gamma(make):
    net, (z, gamma) = randomised(make()), inputs()
    output = net(z, gamma)
    assert bool(((net(z, gamma + 1) - output).abs().amax((1, 2, 3)) > 1e-4).all())
    assert bool(((net(z.roll(1, -1), gamma) - output).abs().amax((1, 2, 3)) > 1e-2).all())


@every
def test_every_parameter_has_a_gradient(make):
    net = randomised(make())
    net(*inputs()).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@every
def test_bfloat16_in_channels_last_agrees_with_float32(make):
    net, (z, gamma) = randomised(make()), inputs()
    expected = net(z, gamma)
    net = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(z, gamma), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        output = net(z, gamma)
    assert output.dtype == torch.float32
    assert (output - expected).abs().max() < 0.05 * expected.abs().max()


@every
def test_setting_the_precision_changes_no_value(make):
    net, (z, gamma) = randomised(make()), inputs()
    expected = net(z, gamma)
    for precision in ("bfloat16", "float32"):
        set_precision(net, torch.device("cpu"), precision)
    with autocast(torch.device("cpu"), "float32"):
        torch.testing.assert_close(net(z, gamma), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [unet, unet_multiscale])
def test_dropout_acts_in_training_alone(make):
    net, (z, gamma) = randomised(make(dropout=0.5)), inputs()
    torch.testing.assert_close(net(z, gamma), net(z, gamma), rtol=0, atol=0)
    net.train()
    assert not torch.equal(net(z, gamma), net(z, gamma))


@pytest.mark.parametrize(("patch", "stride"), [(1, 2), (2, 4)])
@pytest.mark.parametrize("size", [(7, 8), (8, 9), (5, 5), (6, 4), (4, 6)])
def test_sides_that_cannot_be_halved_are_refused(patch, stride, size):
    net, (z, gamma) = unet_multiscale(patch=patch), inputs(height=size[0], width=size[1])
    if size[0] % stride == size[1] % stride == 0:
        assert net(z, gamma).shape == z.shape
    else:
        with pytest.raises(NelboError, match=rf"multiples of {stride}, got \({size[0]}, {size[1]}\)"):
            net(z, gamma)


def test_the_unet_takes_any_size():
    z, gamma = inputs(height=5, width=7)
    assert unet()(z, gamma).shape == z.shape


def test_stages_need_as_many_settings_each():
    with pytest.raises(NelboError, match="one entry for each stage"):
        UNetMultiscale(3, 1, (16, 32), (1,), (1, 1), (0, 0), 32, 0.0, (), RANGE)


@pytest.mark.parametrize(
    ("name", "millions"), [("cifar10", 30.58), ("cifar10-aug", 139.29), ("imagenet32", 122.14), ("imagenet64", 237.60)]
)
def test_the_published_networks_have_the_published_numbers_of_parameters(name, millions):
    # cifar10-aug has 12 rows of 1024 features more, which tell it how an image was transformed.
    assert round(n_parameters(PRESETS[name]) / 1e6, 2) == millions


# Features


def test_a_fourier_feature_of_n_8_has_a_period_of_one_grey_level_and_n_7_of_two():
    z = torch.linspace(-1, 1, 25).reshape(1, 1, 5, 5)
    level = 2 / 256
    for levels, exponent, same in ((1, 8, 1), (2, 7, 1), (1, 7, -1)):
        shifted = fourier_features(z + levels * level, (exponent,))[:, 1:]
        torch.testing.assert_close(shifted, same * fourier_features(z, (exponent,))[:, 1:], rtol=0, atol=5e-4)


def test_fourier_features_are_z_then_sines_then_cosines():
    z = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    phases = torch.stack([z[:, c] * 2**n * math.pi for c in range(3) for n in (7, 8)], dim=1)
    expected = torch.cat([z, phases.sin(), phases.cos()], dim=1)
    torch.testing.assert_close(fourier_features(z, (7, 8)), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fourier_features(z, ()), z, rtol=0, atol=0)


def test_fourier_features_of_half_precision_latents_are_computed_in_float32():
    z = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    features = fourier_features(z, (7, 8))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, fourier_features(z.float(), (7, 8)), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fourier_features(z, (7, 8)), features, rtol=0, atol=0)


def test_the_embedding_tells_neighbouring_times_apart():
    embedding = sinusoidal_embedding(torch.linspace(0, 1, 101, dtype=torch.float64), 16)
    assert embedding.shape == (101, 16)
    assert embedding.dtype == torch.float32
    distances = torch.cdist(embedding, embedding) + 10 * torch.eye(101)
    assert distances.min() > 0.01
    torch.testing.assert_close(embedding[0], torch.cat([torch.zeros(8), torch.ones(8)]), rtol=0, atol=0)


@every
def test_in_bfloat16_a_network_still_sees_the_lowest_bits(make):
    """Two latents that bfloat16 cannot tell apart, half a grey level from each other, have different outputs.

    Fails where the first convolution runs under autocast.
    """
    net = randomised(make())
    z = torch.full((1, 3, 8, 8), 0.75)
    other = z + 1 / 512
    torch.testing.assert_close(z.bfloat16(), other.bfloat16(), rtol=0, atol=0)
    gamma = torch.full((1,), -13.0)
    exact = net(other, gamma) - net(z, gamma)
    with torch.no_grad(), autocast(z.device, "bfloat16"):
        change = net(other, gamma) - net(z, gamma)
    error = (change - exact).norm() / exact.norm()
    assert error < 0.2


@every
def test_a_network_does_not_notice_autocast_beyond_rounding(make):
    net = randomised(make())
    z, gamma = inputs()
    with torch.no_grad(), autocast(z.device, "bfloat16"):
        rounded = net(z, gamma)
    exact = net(z, gamma)
    assert (rounded - exact).square().mean() < 1e-3 * exact.square().mean()


@pytest.mark.parametrize("n_out", [1, 3, 8])
def test_growing_is_a_convolution_and_depth_to_space_in_either_memory_format(n_out):
    torch.manual_seed(0)
    grow, coarse = torch.nn.Conv2d(5, 4 * n_out, 1).double(), torch.randn(2, 5, 3, 4, dtype=torch.float64)
    expected = torch.nn.functional.pixel_shuffle(grow(coarse), 2)
    leaves = list(grow.parameters())
    wanted = torch.autograd.grad(expected.square().sum(), leaves)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        found = _grown(grow, coarse.contiguous(memory_format=memory_format))
        torch.testing.assert_close(found, expected)
        for one, other in zip(torch.autograd.grad(found.square().sum(), leaves), wanted, strict=True):
            torch.testing.assert_close(one, other)
        assert found.is_contiguous(memory_format=memory_format) or n_out == 1
