"""What a network is told besides gamma: nothing at first, one row each, and never of one image for another."""

import pytest
import torch

from nelbo.errors import NelboError
from nelbo.models.augmentation import AUGMENTATIONS
from nelbo.models.config import ModelConfig
from nelbo.models.vdm import VDM

from fixtures.networks import small_multiscale, small_unet

NETS = {
    "unet": small_unet(n_channels=64, dropout=0.0),  # With one channel a group, norms would remove what is added to it.
    "unet_multiscale": small_multiscale(),
}
SHAPE = (3, 8, 8)
EVERYTHING = tuple(AUGMENTATIONS)
every = pytest.mark.parametrize("net", NETS.values(), ids=NETS.keys())


def model(net, n_classes=0, augment=(), scale=0.0):
    """Returns a model; with a scale, one whose weights are not at their initialisation."""
    torch.manual_seed(0)
    built = VDM(ModelConfig(image_shape=SHAPE, net=net, n_classes=n_classes, augment=augment)).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            spread = 1.0 if "condition" in name else scale
            parameter.add_((spread if scale else 0) * torch.randn(parameter.shape, generator=rng).to(parameter.dtype))
    return built


def inputs(n=4):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(n, *SHAPE, generator=rng), torch.linspace(-13.3, 5.0, n, dtype=torch.float64)


@every
def test_without_classes_and_augmentations_the_state_is_as_it_ever_was(net):
    plain, told = model(net), model(net, 10, EVERYTHING)
    extra = set(told.state_dict()) - set(plain.state_dict())
    assert extra == {"net.condition.classes.weight"} | {f"net.condition.codes.{k}.weight" for k in range(3)}
    assert not any("condition" in name for name in plain.state_dict())
    for name, tensor in plain.state_dict().items():
        assert told.state_dict()[name].shape == tensor.shape


@every
def test_a_conditional_network_starts_out_as_if_it_were_told_nothing(net):
    built = model(net, 10, EVERYTHING, scale=0.05)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "condition" in name:
                parameter.zero_()
    z, gamma = inputs()
    codes = torch.tensor([[0, 0, 0], [1, 3, 5], [0, 1, 2], [1, 0, 4]])
    answers = [built.denoise(z, gamma, torch.full((4,), k), codes) for k in (0, 9)]
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=0)
    fresh = model(net, 10, EVERYTHING)
    assert all(not p.any() for name, p in fresh.named_parameters() if "condition" in name)


@every
def test_each_image_is_answered_for_its_own_class(net):
    built = model(net, 10, scale=0.05)
    z, gamma = inputs()
    labels = torch.tensor([3, 0, 9, 3])
    together = built.denoise(z, gamma, labels)
    for k in range(4):
        alone = built.given(labels[k : k + 1]).predict(z[k : k + 1], gamma[k : k + 1])[0]
        torch.testing.assert_close(alone, together[k : k + 1], rtol=1e-5, atol=1e-5)
    other = built.denoise(z, gamma, (labels + 1) % 10)
    assert bool(((other - together).abs().amax((1, 2, 3)) > 1e-4).all())


@every
def test_code_zero_is_the_image_as_it_is(net):
    built = model(net, 0, EVERYTHING, scale=0.05)
    z, gamma = inputs()
    plain = built.denoise(z, gamma)
    identity, _ = built.given(None, torch.zeros(4, 3, dtype=torch.int64)).predict(z, gamma)
    torch.testing.assert_close(identity, plain, rtol=0, atol=0)
    for which in range(3):
        codes = torch.zeros(4, 3, dtype=torch.int64)
        codes[:, which] = 1
        changed = (built.denoise(z, gamma, None, codes) - plain).abs().amax((1, 2, 3))
        assert bool((changed > 1e-4).all())


@every
def test_every_row_that_is_used_has_a_gradient_and_no_other(net):
    built = model(net, 5, EVERYTHING, scale=0.05)
    codes = torch.tensor([[0, 1, 2], [1, 1, 5]])
    built.denoise(*inputs(2), torch.tensor([1, 4]), codes).square().sum().backward()
    gradients = dict(built.named_parameters())
    used = {"classes": {1, 4}, "codes.0": {0, 1}, "codes.1": {1}, "codes.2": {2, 5}}
    for name, rows in used.items():
        gradient = gradients[f"net.condition.{name}.weight"].grad
        assert gradient is not None
        assert {k for k, row in enumerate(gradient) if row.any()} == rows


# The interface


def images(n=3):
    return torch.randint(256, (n, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_the_bound_of_a_class_is_that_of_the_model_given_it():
    built = model(NETS["unet_multiscale"], 4, scale=0.05)
    labels = torch.tensor([0, 1, 3])
    result = built.bound(images(), labels=labels)
    swapped = built.bound(images(), labels=labels.flip(0))
    torch.testing.assert_close(swapped.diffusion[1], result.diffusion[1], rtol=0, atol=0)
    assert swapped.diffusion[0] != result.diffusion[0]
    torch.testing.assert_close(swapped.reconstruction, result.reconstruction, rtol=0, atol=0)


def test_labels_that_do_not_fit_are_refused_in_one_line():
    built, plain = model(NETS["unet_multiscale"], 4), model(NETS["unet_multiscale"])
    for given, message in (
        (None, "4 classes: every image needs a label"),
        (torch.tensor([0, 1]), r"integers of shape \(3,\)"),
        (torch.tensor([0, 1, 4]), "from 0 to 3 of the model, got 0 to 4"),
        (torch.tensor([0, -1, 2]), "got -1 to 2"),
    ):
        with pytest.raises(NelboError, match=message):
            built.check_labels(given, 3)
    with pytest.raises(NelboError, match="every image needs a label"):
        built.bound(images())
    with pytest.raises(NelboError, match="no classes"):
        plain.bound(images(), labels=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(NelboError, match="every image needs a label"):
        built.denoise(*inputs())
