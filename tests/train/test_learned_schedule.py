"""Appendix I.2: the interior of a learned schedule descends the mean square of the loss, all else the loss itself."""

import math

import pytest
import torch

from nelbo.diffusion.bound import bound, diffusion_at, to_bpd
from nelbo.diffusion.draws import training_draws
from nelbo.diffusion.learned_schedule import fork, join
from nelbo.diffusion.noise_schedule import Learned
from nelbo.models.vdm import VDM
from nelbo.train.loop import Trainer
from nelbo.train.objective import Objective

from fixtures.toy_models import CountingModel

N = 6


def bent(learned_ends=True):
    """Returns a learned schedule away from its start, so that no part of its gradient vanishes by symmetry."""
    rng = torch.Generator().manual_seed(0)
    schedule = Learned(-5.0, 3.0, n_units=8, learned_ends=learned_ends)
    with torch.no_grad():
        for parameter in schedule.interior[1:]:
            parameter.add_(0.5 * torch.randn(8, generator=rng, dtype=torch.float64))
    return schedule


@pytest.fixture(params=[True, False], ids=["learned_ends", "fixed_ends"])
def example(request):
    """Returns a model, images in [-1, 1], times and noise."""
    torch.manual_seed(0)
    model = CountingModel(bent(request.param))
    return model, torch.rand(N, 4).double() * 2 - 1, torch.rand(N).double(), torch.randn(N, 4).double()


def plain_losses(model, x, t, eps):
    """Returns each loss of eq. 17 as the paper writes it, all of it differentiable in every parameter."""
    gamma, slope = model.noise_schedule(t), model.noise_schedule.derivative(t)
    z = torch.sigmoid(-gamma).sqrt()[:, None] * x + torch.sigmoid(gamma).sqrt()[:, None] * eps
    return 0.5 * slope * (eps - model.denoise(z, gamma)).square().sum(1)


def forked_losses(model, x, t, eps):
    gamma, slope, token = fork(model.noise_schedule, t)
    return join(diffusion_at(model.given(), x, eps, gamma, slope), token)


def parts(model):
    interior = model.noise_schedule.interior
    rest = [p for p in model.parameters() if p.requires_grad and all(p is not q for q in interior)]
    return interior, rest


def test_forked_losses_are_the_losses(example):
    torch.testing.assert_close(forked_losses(*example), plain_losses(*example), rtol=1e-12, atol=0)


def test_the_interior_gets_the_gradient_of_the_mean_square_and_all_else_that_of_the_mean(example):
    interior, rest = parts(example[0])
    losses = plain_losses(*example)
    of_squares = torch.autograd.grad(losses.square().mean(), interior, retain_graph=True)
    of_mean = torch.autograd.grad(losses.mean(), rest)
    forked = torch.autograd.grad(forked_losses(*example).mean(), [*interior, *rest])
    torch.testing.assert_close(forked, (*of_squares, *of_mean), rtol=1e-9, atol=1e-14)
    assert all(float(g.abs().max()) > 1e-4 for g in forked)


def test_it_is_no_product_of_mean_gradients(example):
    """The mistake of other implementations: twice the mean loss times the mean's gradient, or the plain gradient."""
    interior, _ = parts(example[0])
    losses = plain_losses(*example)
    mean = torch.cat([g.flatten() for g in torch.autograd.grad(losses.mean(), interior)])
    forked = torch.cat([g.flatten() for g in torch.autograd.grad(forked_losses(*example).mean(), interior)])
    assert torch.nn.functional.cosine_similarity(forked, mean, dim=0) < 0.99


def test_one_forward_and_one_backward_pass_through_the_denoiser(example):
    model = example[0]
    forked_losses(*example).mean().backward()
    assert (model.n_forward, model.n_backward) == (1, 1)


def test_descending_it_lowers_the_variance_and_keeps_the_mean(example):
    """Many draws of one image at a time: the variance over times and noise falls, their mean does not change."""
    model, x, _, _ = example
    model.requires_grad_(False)
    interior = model.noise_schedule.interior
    for p in interior:
        p.requires_grad_(True)
    rng = torch.Generator().manual_seed(1)
    t = (torch.arange(600, dtype=torch.float64) + 0.5) / 600
    images, eps = x.repeat(100, 1), torch.randn(600, 4, generator=rng, dtype=torch.float64)
    before = plain_losses(model, images, t, eps)
    optimizer = torch.optim.Adam(interior, lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        forked_losses(model, images, t, eps).mean().backward()
        optimizer.step()
    after = plain_losses(model, images, t, eps)
    assert after.var() < 0.8 * before.var()
    assert abs(after.mean() - before.mean()) < 4 * (before.var() / 600).sqrt()


# In training


def vdm_of(config):
    """Returns a model whose every weight matters: those that begin at zero would hide gradients."""
    torch.manual_seed(0)
    model = VDM(config.model)
    with torch.no_grad():
        for p in model.net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


@pytest.fixture
def learning(tiny):
    """Returns the configuration of the tiny run with a learned schedule, with some settings changed."""
    schedule = '{"type": "learned", "gamma_0": -7, "gamma_1": 5, "n_units": 8}'
    return lambda *settings: tiny("model.net.dropout=0", f"model.noise_schedule={schedule}", *settings)


@pytest.fixture
def batch(pixels):
    images = torch.from_numpy(pixels[:N]).permute(0, 3, 1, 2).contiguous()
    return images, training_draws(range(N), N, (3, 8, 8), 0, 3)


def test_the_objective_of_continuous_time_splits_the_gradient(learning, batch):
    vdm, (images, draws) = vdm_of(learning()), batch
    interior, rest = parts(vdm)
    terms = bound(vdm.given(), images, draws)
    squares = to_bpd(terms.diffusion, vdm.n_dims).square().mean()
    mean = to_bpd(terms.total, vdm.n_dims).mean()
    expected = torch.autograd.grad(squares, interior, retain_graph=True) + torch.autograd.grad(mean, rest)
    objective = Objective(vdm, None)
    loss = objective(images, draws)
    torch.testing.assert_close(loss, mean)
    torch.testing.assert_close(torch.autograd.grad(loss, [*interior, *rest]), expected, rtol=1e-3, atol=1e-5)
    assert objective.of_squares() == interior


def test_with_fixed_ends_the_loss_is_the_diffusion_term(tiny, batch):
    schedule = '{"type": "learned", "n_units": 8, "learned_ends": false}'
    vdm, (images, draws) = vdm_of(tiny("model.net.dropout=0", f"model.noise_schedule={schedule}")), batch
    diffusion = to_bpd(bound(vdm.given(), images, draws).diffusion, vdm.n_dims).mean()
    torch.testing.assert_close(Objective(vdm, None)(images, draws), diffusion)


def test_the_interior_of_a_chain_descends_the_bound_which_depends_on_it(learning, batch):
    vdm, (images, draws) = vdm_of(learning("n_steps=10")), batch
    mean = to_bpd(bound(vdm.given(), images, draws, 10).total, vdm.n_dims).mean()
    objective = Objective(vdm, 10)
    loss = objective(images, draws)
    moved = [p for p in vdm.parameters() if p.requires_grad]
    torch.testing.assert_close(torch.autograd.grad(loss, moved), torch.autograd.grad(mean, moved))
    assert objective.of_squares() == []


def test_the_schedule_does_not_decay_and_its_interior_has_a_rate_of_its_own(learning, images, world):
    trainer = Trainer(learning("interior_rate=50", "weight_decay=0.3"), images, world)
    trainer.run_step()
    net, ends, interior = trainer.optimizer.param_groups
    assert [group["weight_decay"] for group in (net, ends, interior)] == [0.3, 0, 0]
    assert [len(group["params"]) for group in (ends, interior)] == [2, 4]
    assert (interior["lr"], ends["lr"]) == (pytest.approx(50 * net["lr"]), net["lr"])


def test_the_gradients_of_the_bound_and_of_the_square_are_clipped_apart(learning, images, world):
    trainer = Trainer(learning("clip_norm=1e-3"), images, world)
    trainer.run_step()
    for parameters in parts(trainer.model):
        squares = sum(float(p.grad.double().square().sum()) for p in parameters if p.grad is not None)
        assert math.sqrt(squares) == pytest.approx(1e-3, rel=1e-3)


# Compiles the objective where no shapes are checked, and writes both gradients.
COMPILED = """
import torch
from nelbo.models.vdm import VDM
from nelbo.train.config import TrainConfig
from nelbo.train.objective import Objective
torch.manual_seed(0)
model = VDM(TrainConfig.model_validate_json(config).model)
model.load_state_dict(weights)
found = []
for backend in (None, "aot_eager"):
    objective = Objective(model, None)
    if backend:
        objective.compile(backend=backend)
    model.zero_grad()
    loss = objective(*batch)
    loss.backward()
    found.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
torch.save(found, out)
"""


@pytest.mark.slow
def test_compiled_it_has_the_same_gradients(learning, batch, start, tmp_path):
    script, out = tmp_path / "compiled.py", tmp_path / "gradients.pt"
    script.write_text(COMPILED)
    config = learning()
    weights = vdm_of(config).state_dict()
    names = {"config": config.model_dump_json(), "weights": weights, "batch": batch, "out": str(out)}
    process = start([], script, **names)
    process.join()
    assert process.exitcode == 0
    eager, compiled = torch.load(out, weights_only=True)
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-5)
