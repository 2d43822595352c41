"""Bits-back coding: decode undoes encode bit for bit, and the length is the chain's bound."""

import math

import numpy as np
import pytest
import torch

from nelbo.ans.lanes import Lanes
from nelbo.ans.message import Message
from nelbo.codec.latent_coder import ChainCoder
from nelbo.codec.make_plan import make_plan
from nelbo.codec.plan import unpack_plan
from nelbo.codec.residual_coder import FixedExit
from nelbo.codec.residual_loops import log2_of, power_of
from nelbo.diffusion.residual_decoder import NEIGHBOURS
from nelbo.diffusion.reverse import KERNELS
from nelbo.errors import CorruptArchiveError, NelboError, StackEmptyError
from nelbo.runtime.decimals import LOG_BITS, log_table, power_table
from nelbo.time_schedule.chain import chain_bound

CODABLE = [name for name, kernel in KERNELS.items() if not kernel.needs_range]
# One step from pure noise to z_0: a standard deviation a thousand times the posterior's.
REFUSED = {(name, "decoder", 2) for name in ("forward", "analytic", "cautious")}
EXITS = ("decoder", *NEIGHBOURS)


def messages(n, n_words=4000):
    return [Message.seeded(np.random.default_rng(lane).integers(0, 2**32, n_words, np.uint32)) for lane in range(n)]


@pytest.fixture(scope="module")
def coder_of(small_model, small_frozen, tables):
    def make(schedule):
        plan = make_plan(small_model, schedule)
        packed = unpack_plan(plan.pack(), len(schedule.gammas), small_model.image_shape)
        return ChainCoder(small_frozen, packed, tuple(schedule.gammas.tolist()), tables)

    return make


@pytest.mark.parametrize("kernel", CODABLE)
@pytest.mark.parametrize("leave", EXITS)
@pytest.mark.parametrize("gammas", [(-13.3, -9.0, -5.0, -1.0, 5.0), (-9.5, -4.0, 2.0), (-7.0,)])
def test_decoding_undoes_encoding(coder_of, schedule_of, smooth_images, kernel, leave, gammas):
    if leave == "decoder":
        gammas = (-13.3, *(gammas[1:] or (1.0,)))  # One latent alone would be far from its prior.
    schedule = schedule_of(kernel, leave, gammas)
    if (kernel, leave, len(gammas)) in REFUSED:
        with pytest.raises(NelboError, match="a standard deviation is outside what the tables hold"):
            coder_of(schedule)
        return
    coder = coder_of(schedule)
    images, lanes = smooth_images(3).numpy(), Lanes(messages(3))
    before = [message.copy() for message in lanes.messages]
    coder.encode(lanes, images)
    assert not lanes.errors
    assert np.array_equal(coder.decode(lanes), images)
    assert list(lanes.messages) == before


@pytest.mark.parametrize("kernel", CODABLE)
@pytest.mark.parametrize("leave", EXITS)
def test_the_length_is_the_bound(coder_of, schedule_of, small_model, smooth_images, kernel, leave):
    if (kernel, leave) == ("posterior", "decoder"):
        pytest.skip("an untrained network is hundreds of posterior's standard deviations off at little noise")
    gammas, scale = ((-13.3, -9.0, -5.0, -1.0, 5.0), 0) if leave == "decoder" else ((0.5, 1.2, 2.0, 3.0), 0.0)
    schedule, images = schedule_of(kernel, leave, gammas, scale), smooth_images(32, seed=5)
    coder, lanes = coder_of(schedule), Lanes(messages(8))
    before = sum(message.n_bits for message in lanes.messages)
    for part in images.split(8):
        coder.encode(lanes, part.numpy())
    net = (sum(message.n_bits for message in lanes.messages) - before) / images.numel()
    with torch.no_grad():
        generator, bounds = torch.Generator().manual_seed(0), []
        for _ in range(8):
            eps = torch.randn((2, *images.shape), generator=generator)
            bounds.append(chain_bound(small_model.given(), schedule, images, eps[0], eps[1]).bpd.mean().item())
    error = np.std(bounds) * math.sqrt(1 + 1 / len(bounds))
    assert abs(net - np.mean(bounds)) < 0.01 * np.mean(bounds) + 3 * error


def test_lanes_do_not_see_each_other(coder_of, schedule_of, smooth_images):
    coder, images = coder_of(schedule_of("spectral", "causal")), smooth_images(5).numpy()
    together, alone = Lanes(messages(5)), [Lanes([message]) for message in messages(5)]
    coder.encode(together, images)
    for lane, each in enumerate(alone):
        coder.encode(each, images[lane : lane + 1])
        assert each.messages[0] == together.messages[lane]


def test_a_dry_lane_stops_alone(coder_of, schedule_of, smooth_images):
    coder, images = coder_of(schedule_of("posterior", "channels")), smooth_images(2).numpy()
    full, alone = messages(1)[0], Lanes(messages(1))
    lanes = Lanes([full, Message.seeded(np.ones(3, np.uint32))])
    coder.encode(lanes, images)
    coder.encode(alone, images[:1])
    assert set(lanes.errors) == {1}
    assert isinstance(lanes.errors[1], StackEmptyError)
    assert lanes.messages[0] == alone.messages[0]


@pytest.mark.parametrize("kind", NEIGHBOURS)
def test_the_fixed_exit_is_the_exit(schedule_of, small_model, smooth_images, tables, kind):
    schedule, images = schedule_of("posterior", kind), smooth_images(2)
    x_hat = (
        images.double() + torch.randn(images.shape, generator=torch.Generator().manual_seed(3)) * 4 + 0.5
    ) / 128 - 1
    assert schedule.exit is not None
    expected = -schedule.exit.log_likelihood(images, x_hat) / math.log(2)
    known = (x_hat * 2**20).round().long().permute(0, 2, 3, 1).contiguous().numpy()
    lanes = Lanes(messages(2))
    before = [message.n_bits for message in lanes.messages]
    FixedExit(make_plan(small_model, schedule), tables).push(
        lanes, known, images.permute(0, 2, 3, 1).contiguous().numpy()
    )
    bits = [message.n_bits - start for message, start in zip(lanes.messages, before, strict=True)]
    np.testing.assert_allclose(bits, expected.numpy(), rtol=2e-3)


def test_integer_logarithms_and_powers():
    log, power = log_table(), power_table()
    for value in (1, 2, 3, 1000, 12345678, 2**40 + 12345, 2**52 - 1):
        assert abs(log2_of(value, log) / 2**LOG_BITS - math.log2(value)) < 2e-5
        assert math.isclose(power_of(int(math.log2(value) * 2**32), power), value, rel_tol=1e-5, abs_tol=1)


def test_a_damaged_plan_is_refused(schedule_of, small_model):
    packed = make_plan(small_model, schedule_of("spectral", "causal")).pack()
    rng = np.random.default_rng(0)
    for _ in range(100):
        data = bytearray(packed)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        with pytest.raises(CorruptArchiveError):
            unpack_plan(bytes(data), 5, small_model.image_shape)
    for n_levels, shape in ((4, (3, 8, 8)), (5, (1, 8, 8)), (5, (3, 8, 6))):
        with pytest.raises(CorruptArchiveError):
            unpack_plan(packed, n_levels, shape)


def test_a_kernel_whose_variances_are_the_networks_is_refused_by_name(schedule_of, small_model):
    with pytest.raises(NelboError, match=r"'learned-range', whose variances .* take posterior, forward"):
        make_plan(small_model, schedule_of("learned-range", "causal"))
