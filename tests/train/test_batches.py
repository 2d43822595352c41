"""What a step sees depends on the seed and the step alone, however many processes share the batch."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nelbo.data import from_array
from nelbo.diffusion.draws import training_draws
from nelbo.train.batches import read_batch, stream_indices

sizes = st.integers(1, 40)


def numbered(n_images):
    """Returns images that know their number: no two columns alike, so that mirroring shows."""
    pixels = np.zeros((n_images, 2, 3, 1), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(n_images)
    pixels[:, :, 2, 0] = 255
    return from_array(pixels)


@given(n_images=sizes, seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_every_epoch_visits_every_image_once(n_images, seed, epoch):
    places = range(epoch * n_images, (epoch + 1) * n_images)
    assert sorted(stream_indices(n_images, seed, places)) == list(range(n_images))


@given(n_images=sizes, n_batch=sizes)
def test_batches_follow_one_another_without_gap_or_overlap(n_images, n_batch):
    steps = range(2 * n_images)  # so that n_batch epochs end with a batch, twice
    seen = [
        n
        for step in steps
        for n in read_batch(numbered(n_images), range(n_batch), n_batch, 3, step, False)[:, 0, 0, 0].tolist()
    ]
    assert Counter(seen) == dict.fromkeys(range(n_images), 2 * n_batch)


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(stream_indices(20, seed, range(20 * e, 20 * e + 20))) for seed in (0, 1) for e in range(5)}
    assert len(orders) == 10


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("n_parts", [2, 3, 4])
def test_parts_make_up_the_whole_batch(flip, n_parts):
    data, n_batch = numbered(50), 24
    share = n_batch // n_parts
    for step in (0, 1, 7):
        parts = [range(i * share, (i + 1) * share) for i in range(n_parts)]
        whole = read_batch(data, range(n_batch), n_batch, 5, step, flip)
        torch.testing.assert_close(
            torch.cat([read_batch(data, part, n_batch, 5, step, flip) for part in parts]), whole, rtol=0, atol=0
        )
        draws = training_draws(range(n_batch), n_batch, (1, 2, 3), 5, step)
        of_parts = [training_draws(part, n_batch, (1, 2, 3), 5, step) for part in parts]
        for name in ("eps_0", "u", "eps_t"):
            together = torch.cat([getattr(part, name) for part in of_parts])
            torch.testing.assert_close(together, getattr(draws, name), rtol=0, atol=0)


def test_flips_mirror_half_of_the_images_anew_at_each_visit():
    data, n_batch = numbered(64), 64
    plain = [read_batch(data, range(n_batch), n_batch, 0, step, False) for step in range(32)]
    flipped = [read_batch(data, range(n_batch), n_batch, 0, step, True) for step in range(32)]
    mirrored = torch.stack([(f == p.flip(-1)).flatten(1).all(1) for f, p in zip(flipped, plain, strict=True)])
    untouched = torch.stack([(f == p).flatten(1).all(1) for f, p in zip(flipped, plain, strict=True)])
    torch.testing.assert_close(mirrored, ~untouched)
    assert abs(mirrored.double().mean().item() - 0.5) < 4 * 0.5 / (32 * 64) ** 0.5
    assert len({tuple(row) for row in mirrored.tolist()}) == 32


@given(n_batch=st.integers(1, 300), seed=st.integers(0, 2**40), step=st.integers(0, 10**7))
def test_one_time_falls_into_each_stratum(n_batch, seed, step):
    u = training_draws(range(n_batch), n_batch, (1, 1, 1), seed, step).u
    assert u.dtype == torch.float64
    assert bool(((u >= 0) & (u < 1)).all())
    ordered = u.sort().values
    torch.testing.assert_close(ordered - ordered[0], torch.arange(n_batch, dtype=torch.float64) / n_batch)
    assert ordered[0] < 1 / n_batch + 1e-9


def test_the_noise_of_an_image_is_standard_normal_and_nothing_repeats():
    draws = [training_draws(range(64), 64, (3, 8, 8), 0, step) for step in range(4)]
    noise = torch.cat([n for d in draws for n in (d.eps_0, d.eps_t)]).double().flatten(1)
    n = noise.numel()
    assert abs(noise.mean().item()) < 4 / n**0.5
    assert abs(noise.var().item() - 1) < 4 * (2 / n) ** 0.5
    correlations = torch.corrcoef(noise) - torch.eye(len(noise), dtype=torch.float64)
    assert correlations.abs().max().item() < 6 / noise.shape[1] ** 0.5
