"""Executors of whole networks: the same integers whatever the batch, memory and threads, and near floating point."""

import pytest
import torch

from nelbo.integer.frozen_model import FrozenModel


@pytest.mark.parametrize("executor", ["native", "float32"])
def test_an_image_does_not_depend_on_its_company(frozen, executor, latents):
    model = FrozenModel(frozen.header, frozen.tensors, executor=executor)
    z = latents(frozen, 3, seed=2)
    expected = FrozenModel(frozen.header, frozen.tensors, executor="reference").result(z, 3.0)
    assert torch.equal(model.result(z, 3.0), expected)
    assert torch.equal(model.result(z.long().to(memory_format=torch.channels_last), 3.0), expected)
    assert torch.equal(model.result(z[1:2], 3.0), expected[1:2])
    many = z.repeat(12, 1, 1, 1)  # More than one call holds.
    assert torch.equal(model.result(many, 3.0), expected.repeat(12, 1, 1, 1))


def test_threads_change_nothing(frozen_models, latents):
    frozen = frozen_models["multiscale"]
    z = latents(frozen, 5, seed=4)
    expected = frozen.result(z, 1.0)
    torch.set_num_threads(2)
    try:
        assert torch.equal(frozen.result(z, 1.0), expected)
    finally:
        torch.set_num_threads(1)


def test_a_frozen_network_is_near_its_model(model, frozen, latents):
    z = latents(model, 4, seed=3)
    for gamma in (-13.0, -6.0, 0.0, 5.0):
        with torch.no_grad():
            expected = model.net((z / 2**18).float(), torch.full((4,), gamma)).double()
        error = (frozen.result(z, gamma) / 2**16 - expected).square().mean().sqrt()
        assert error < 0.02 * expected.std()


def test_latents_beyond_sixteen_are_clamped(frozen, latents):
    z = latents(frozen, 1, size=100.0)
    clamped = z.clamp(-(2**22), 2**22)
    assert not torch.equal(z, clamped)
    one, other = frozen.predict(z, 0.0), frozen.predict(clamped, 0.0)
    assert torch.equal(one.eps_hat, other.eps_hat)
    assert torch.equal(one.x_hat, other.x_hat)
