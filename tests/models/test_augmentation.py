"""Augmentations are groups of transformations: code 0 is the identity, each undoes another, and no two are alike."""

import itertools

import pytest
import torch

from nelbo.errors import NelboError
from nelbo.models.augmentation import AUGMENTATIONS, augmented, misfit
from nelbo.models.config import ModelConfig
from nelbo.train.batches import draw_codes
from nelbo.train.config import override
from nelbo.train.presets import preset

EVERYTHING = tuple(AUGMENTATIONS)
every = pytest.mark.parametrize("name", AUGMENTATIONS)


def images(n, shape=(3, 5, 5)):
    return torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def orbit(image, names):
    """Returns an image under every combination of codes."""
    codes = torch.tensor(list(itertools.product(*(range(AUGMENTATIONS[name].n_codes) for name in names))))
    return codes, augmented(image.expand(len(codes), *image.shape[1:]).contiguous(), names, codes)


@every
def test_code_zero_changes_nothing(name):
    torch.testing.assert_close(AUGMENTATIONS[name].transform(images(4), 0), images(4), rtol=0, atol=0)


@every
def test_every_transformation_is_undone_by_another_of_the_family(name):
    augmentation = AUGMENTATIONS[name]
    for code in range(augmentation.n_codes):
        moved = augmentation.transform(images(1), code)
        back = [augmentation.transform(moved, other) for other in range(augmentation.n_codes)]
        assert sum(torch.equal(image, images(1)) for image in back) == 1


def test_no_two_combinations_are_alike_and_all_keep_the_pixels():
    codes, seen = orbit(images(1), EVERYTHING)
    assert len(codes) == 2 * 4 * 6
    assert len({bytes(image.numpy().tobytes()) for image in seen}) == len(codes)
    expected = images(1).flatten().sort().values.expand(len(codes), -1)
    torch.testing.assert_close(seen.flatten(1).sort(1).values, expected, rtol=0, atol=0)
    torch.testing.assert_close(seen[(codes == 0).all(1)], images(1), rtol=0, atol=0)


def test_each_image_goes_by_its_own_codes():
    codes = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 1]])
    flipped, turned, swapped = images(4)[1].flip(-1), images(4)[2].flip(-1, -2), images(4)[3][[0, 2, 1]]
    expected = torch.stack([images(4)[0], flipped, turned, swapped])
    torch.testing.assert_close(augmented(images(4), EVERYTHING, codes), expected, rtol=0, atol=0)


def test_codes_are_uniform_and_independent_and_parts_make_up_the_batch():
    n = 4800
    codes = draw_codes(EVERYTHING, range(n), n, 0, 7)
    joint = (codes[:, 0] * 4 + codes[:, 1]) * 6 + codes[:, 2]
    counts = torch.bincount(joint, minlength=48).double()
    assert len(counts) == 48
    chi_squared = ((counts - n / 48).square() / (n / 48)).sum().item()
    assert 15 < chi_squared < 90  # 47 degrees of freedom
    parts = [draw_codes(EVERYTHING, range(k, k + n // 2), n, 0, 7) for k in (0, n // 2)]
    torch.testing.assert_close(torch.cat(parts), codes, rtol=0, atol=0)
    assert not torch.equal(draw_codes(EVERYTHING, range(n), n, 0, 8), codes)


@pytest.mark.parametrize(
    ("names", "shape", "message"),
    [
        (("rotation",), (3, 8, 12), "'rotation' needs square images, and these are 12x8"),
        (("flip", "channels"), (1, 8, 8), "'channels' needs 3 channels, and these have 1"),
        (("flip", "flip"), (3, 8, 8), "named twice among flip, flip"),
        (("flip",), (1, 8, 12), None),
        (EVERYTHING, (3, 8, 8), None),
    ],
)
def test_what_cannot_be_applied_is_refused_before_anything_is_built(names, shape, message):
    assert (misfit(names, shape) or "").find(message or "") >= 0
    if message is None:
        assert ModelConfig(image_shape=shape, augment=names).augment == names
        return
    settings = [f"model.image_shape={list(shape)}", f"model.augment={list(names)}".replace("'", '"'), "flip=false"]
    with pytest.raises(NelboError, match=message) as caught:
        override(preset("cifar10-small"), settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", ['model.augment=["zoom"]', 'model.augment=["flip"]', "model.n_classes=-1"])
def test_bad_settings_are_one_line(setting):
    with pytest.raises(NelboError) as caught:
        override(preset("cifar10-small"), ["flip=true", setting])
    assert "\n" not in str(caught.value)
