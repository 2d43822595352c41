"""The norm's compiled loops for bfloat16 channels last against PyTorch's norm in float32, values and gradients."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from nelbo.nets.layers import ResidualBlock
from nelbo.nets.norm import GroupNorm
from nelbo.nets.unet_multiscale import UNetMultiscale

LAST = torch.channels_last
SIZES = ((32, 32, 8), (32, 64, 4), (16, 48, 3), (32, 128, 1))  # groups, channels, side


def example(groups: int, channels: int, side: int) -> tuple[GroupNorm, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Returns a norm, bfloat16 features whose mean is no zero, and a modulation."""
    torch.manual_seed(channels)
    norm = GroupNorm(groups, channels, eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (3 * torch.randn(5, channels, side, side) + 2).bfloat16().to(memory_format=LAST).requires_grad_()
    return norm, x, (torch.randn(5, channels, requires_grad=True), torch.randn(5, channels, requires_grad=True))


@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize("is_modulated", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_loops_are_the_norm(size: tuple[int, int, int], is_modulated: bool, activate: bool) -> None:
    norm, x, modulation = example(*size)
    given = modulation if is_modulated else None
    leaves = [norm.weight, norm.bias, *(modulation if is_modulated else ())]
    exact = x.detach().float().requires_grad_()
    expected, result = norm(exact, given, activate), norm(x, given, activate)
    assert "Loops" in str(result.grad_fn)
    assert_close(result.float(), expected, rtol=2**-8, atol=1e-4)
    grad = torch.randn(expected.shape).bfloat16().to(memory_format=LAST)
    wanted = torch.autograd.grad(expected, [exact, *leaves], grad.float())
    got = torch.autograd.grad(result, [x, *leaves], grad)
    assert_close(got[0].float(), wanted[0], rtol=2**-8, atol=1e-3)
    for one, other in zip(got[1:], wanted[1:], strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    norm, x, modulation = example(32, 64, 4)
    results = []
    for n_threads in (1, 3):
        torch.set_num_threads(n_threads)
        try:
            y = norm(x, modulation, True)
            results.append((y, *torch.autograd.grad(y.float().square().sum(), [x, *modulation])))
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(damage: float) -> None:
    norm, x, _ = example(32, 32, 8)
    x.data[1, 2, 3, 4] = damage
    y = norm(x, activate=True)
    assert not torch.isfinite(y[1, 2]).any()
    assert torch.isfinite(y[[0, 2, 3, 4]]).all()


def test_a_block_in_bfloat16_keeps_the_order_and_is_near_float32() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(32, 32, 16, dropout=0.0, modulated=True)
    nn.init.normal_(block.conv2.weight, std=0.05)
    nn.init.normal_(block.cond_proj.weight)
    x, cond = torch.randn(3, 32, 8, 8).to(memory_format=LAST), torch.randn(3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x.bfloat16(), cond)
    assert y.is_contiguous(memory_format=LAST)
    assert (y.float() - block(x, cond)).norm() < 0.01 * y.float().norm()


def test_a_network_in_bfloat16_on_a_cpu_norms_by_loops_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    net = UNetMultiscale(3, 1, (32, 64), (1, 1), (1, 1), (0, 2), 16, 0.0, (7,), (-13.3, 5.0))
    orders = []
    monkeypatch.setattr(nn.GroupNorm, "forward", lambda self, x: orders.append(x.shape) or x)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        net(torch.randn(2, 3, 8, 8), torch.zeros(2))
    assert orders == []
