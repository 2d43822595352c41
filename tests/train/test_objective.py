"""Training minimises the bound: its gradient, brute force, for the schedule's ends and for the network."""

import math

import pytest
import torch

from nelbo.diffusion.bound import bound, to_bpd
from nelbo.diffusion.draws import training_draws
from nelbo.models.vdm import VDM
from nelbo.train.objective import Objective

N = 6


@pytest.fixture
def images(pixels):
    return torch.from_numpy(pixels[:N]).permute(0, 3, 1, 2).contiguous()


@pytest.fixture
def draws():
    return training_draws(range(N), N, (3, 8, 8), 0, 3)


def model(tiny, *settings):
    """Returns a model whose every weight matters: those that begin at zero would hide gradients."""
    torch.manual_seed(0)
    built = VDM(tiny("model.net.dropout=0", *settings).model)
    with torch.no_grad():
        for p in built.net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return built


def brute_force(net, images, draws, gamma_0, gamma_1, n_steps):
    """Returns the mean bound in bits per dimension, every term as the paper writes it, in float64."""
    x = 2 * (images.double() + 0.5) / 256 - 1

    def diffused(eps, gamma):
        gamma = gamma.reshape(-1, 1, 1, 1)
        return torch.sigmoid(-gamma).sqrt() * x + torch.sigmoid(gamma).sqrt() * eps

    var_1 = torch.sigmoid(gamma_1)
    prior = 0.5 * ((1 - var_1) * x**2 + var_1 - torch.log(var_1) - 1).flatten(1).sum(1)
    points = 2 * (torch.arange(256, dtype=torch.float64) + 0.5) / 256 - 1
    rescaled = diffused(draws.eps_0.double(), gamma_0) / torch.sigmoid(-gamma_0).sqrt()
    logits = -0.5 * torch.exp(-gamma_0) * (rescaled[..., None] - points) ** 2
    chosen = torch.log_softmax(logits, -1).gather(-1, images.long()[..., None])[..., 0]
    reconstruction = -chosen.flatten(1).sum(1)

    t = draws.u if n_steps is None else torch.floor(draws.u * n_steps + 1) / n_steps
    gamma_t = gamma_0 + (gamma_1 - gamma_0) * t
    weight = gamma_1 - gamma_0
    if n_steps is not None:
        weight = n_steps * torch.expm1((gamma_1 - gamma_0) / n_steps)
    z_t = diffused(draws.eps_t.double(), gamma_t)
    v_hat = net(z_t.float(), gamma_t.float()).double()
    alpha, sigma = (torch.sigmoid(sign * gamma_t).sqrt().reshape(-1, 1, 1, 1) for sign in (-1, 1))
    error = (draws.eps_t - (sigma * z_t + alpha * v_hat)).square().flatten(1).sum(1)
    total = prior + reconstruction + 0.5 * weight * error
    return (total / (images[0].numel() * math.log(2))).mean()


@pytest.mark.parametrize("n_steps", [None, 10])
def test_the_gradient_of_learned_ends_is_that_of_the_whole_bound(n_steps, tiny, images, draws):
    vdm = model(tiny, "model.noise_schedule.gamma_0=-7")  # The decoder must leave some doubt, or it has no slope.
    loss = Objective(vdm, n_steps)(images, draws)
    ends = list(vdm.noise_schedule.parameters())
    assert [name for name, _ in vdm.noise_schedule.named_parameters()] == ["start", "width"]
    gamma_0 = ends[0].detach().clone().requires_grad_()
    gamma_1 = (ends[0] + ends[1]).detach().requires_grad_()
    expected = brute_force(vdm.net, images, draws, gamma_0, gamma_1, n_steps)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    slopes = torch.autograd.grad(expected, [gamma_0, gamma_1, *vdm.net.parameters()])
    of_start, of_width = torch.autograd.grad(loss, ends, retain_graph=True)
    of_ends = (of_start - of_width, of_width)  # start moves both ends, width the upper one.
    torch.testing.assert_close(of_ends, slopes[:2], rtol=1e-3, atol=0)
    of_net = torch.autograd.grad(loss, list(vdm.net.parameters()))
    torch.testing.assert_close(of_net, slopes[2:], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("n_steps", [None, 10])
def test_what_a_fixed_schedule_leaves_out_has_no_gradient(n_steps, tiny, images, draws):
    vdm = model(tiny, "model.noise_schedule.learned=false")
    moved = [p for p in vdm.parameters() if p.requires_grad]
    assert len(moved) == len(list(vdm.net.parameters()))
    loss = Objective(vdm, n_steps)(images, draws)
    full = bound(vdm.given(), images, draws, n_steps)
    omitted = to_bpd(full.prior + full.reconstruction, vdm.n_dims).mean()
    assert not omitted.requires_grad
    whole = to_bpd(full.total, vdm.n_dims).mean()
    torch.testing.assert_close(whole - omitted, loss)
    torch.testing.assert_close(torch.autograd.grad(whole, moved), torch.autograd.grad(loss, moved))


def test_a_learned_schedule_counts_every_term(tiny, images, draws):
    vdm = model(tiny)
    whole = to_bpd(bound(vdm.given(), images, draws).total, vdm.n_dims).mean()
    torch.testing.assert_close(Objective(vdm, None)(images, draws), whole)
