"""Muon: an update keeps the gradient's singular vectors, evens out its singular values, and is for inner kernels."""

import math

import pytest
import torch
from torch import nn

from nelbo.train.loop import Trainer, learning_rate
from nelbo.train.muon import Joint, Muon, inner_kernels, orthogonalized

SHAPES = [(8, 8), (8, 72), (72, 8), (1, 9)]


def random_matrix(shape, smallest=0.05):
    """Returns a matrix with known singular vectors and singular values from 1 down to ``smallest``."""
    rank = min(shape)
    torch.manual_seed(rank)
    left, right = (torch.linalg.qr(torch.randn(n, rank, dtype=torch.float64))[0] for n in shape)
    values = torch.logspace(0, math.log10(smallest), rank, dtype=torch.float64)
    return left, values, right


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_singular_values_become_nearly_one_and_vectors_stay(shape, scale):
    left, values, right = random_matrix(shape)
    result = orthogonalized((scale * left * values @ right.T).float()).double()
    core = left.T @ result @ right  # Diagonal if the singular vectors are the matrix's own.
    assert result.shape == shape
    assert bool(((core.diagonal() > 0.6) & (core.diagonal() < 1.3)).all())
    assert (core - core.diagonal().diag()).abs().max() < 1e-3
    assert (result - left @ core @ right.T).abs().max() < 1e-3


def test_a_zero_gradient_moves_nothing():
    assert torch.equal(orthogonalized(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_matrices_side_by_side_do_not_mix():
    torch.manual_seed(3)
    matrices = torch.randn(4, 9, 5) * torch.tensor([1e-3, 1.0, 0.0, 1e3])[:, None, None]
    expected = torch.stack([orthogonalized(matrix) for matrix in matrices])
    torch.testing.assert_close(orthogonalized(matrices), expected)


def test_the_gram_matrix_does_what_the_iteration_says():
    torch.manual_seed(2)
    matrix = torch.randn(6, 40)
    x = matrix / matrix.norm()
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
    torch.testing.assert_close(orthogonalized(matrix), x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (64, 16, 1, 1), (32, 32, 3, 3)])
def test_the_update_has_the_size_of_adamws(shape):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = torch.randn(shape)
    Muon([weight], lr=0.5).step()
    assert weight.detach().square().mean().sqrt() / 0.5 == pytest.approx(0.2, rel=0.2)


def test_momentum_sums_past_gradients():
    torch.manual_seed(1)
    first, second = torch.randn(4, 9), torch.randn(4, 9)
    weight = nn.Parameter(torch.zeros(4, 9))
    optimizer = Muon([weight], lr=0.1, momentum=0.5)
    for gradient in (first, second):
        before = weight.detach().clone()
        weight.grad = gradient
        optimizer.step()
    direction = second + 0.5 * (0.5 * first + second)
    torch.testing.assert_close(weight.detach() - before, -0.2 * 0.1 * 3 * orthogonalized(direction))


def test_weights_decay_by_a_share():
    weight = nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 0.95))


def test_every_parameter_has_one_optimiser(tiny, images, world):
    trainer = Trainer(tiny("optimizer=muon"), images, world)
    assert isinstance(trainer.optimizer, Joint)
    moved = [id(p) for group in trainer.optimizer.param_groups for p in group["params"]]
    assert sorted(moved) == sorted(id(p) for p in trainer.parameters)
    inner = {id(p) for p in inner_kernels(trainer.model.net)}
    assert {id(p) for p in trainer.optimizer.parts[1].param_groups[0]["params"]} == inner
    named = {name: id(p) in inner for name, p in trainer.model.net.named_parameters()}
    assert named["conv_in.weight"] is named["conv_out.weight"] is False
    assert all(
        is_inner == (name.endswith("weight") and p.ndim == 4)
        for (name, is_inner), p in zip(named.items(), trainer.model.net.parameters(), strict=True)
        if not name.startswith("conv_")
    )


def test_a_network_without_inner_kernels_moves_by_adamw_alone(tiny, images, world):
    bare = ("model.net.channels=[8]", "model.net.heads=[0]", "model.net.n_blocks_down=[0]", "model.net.n_blocks_up=[0]")
    one, other = (Trainer(tiny(f"optimizer={name}", *bare), images, world) for name in ("muon", "adamw"))
    assert not inner_kernels(one.model.net)
    assert [one.run_step() for _ in range(2)] == [other.run_step() for _ in range(2)]


def test_the_interior_of_a_learned_schedule_has_its_own_rate_beside_any_optimiser(tiny, images, world):
    schedule = 'model.noise_schedule={"type": "learned", "n_units": 4}'
    for name in ("adamw", "muon"):
        trainer = Trainer(tiny(f"optimizer={name}", schedule, "interior_rate=0.25"), images, world)
        trainer.run_step()
        interior = {id(p) for p in trainer.model.noise_schedule.interior}
        rate = learning_rate(trainer.config, 0)
        for group in trainer.optimizer.param_groups:
            is_interior = {id(p) in interior for p in group["params"]}
            assert is_interior in ({True}, {False})
            assert group["lr"] == rate * (0.25 if is_interior == {True} else 1.0)


def test_muon_fits_a_batch(tiny, images, world):
    config = tiny("optimizer=muon", "learning_rate=1e-2", "model.noise_schedule.learned=false", "model.net.dropout=0")
    trainer = Trainer(config, images, world)
    losses = [trainer.run_step() for _ in range(20)]
    assert sum(losses[-5:]) < 0.99 * sum(losses[:5])


def test_muon_resumes_bit_for_bit(tiny, images, world):
    config = tiny("optimizer=muon")
    whole, part, rest = (Trainer(config, images, world) for _ in range(3))
    losses = [whole.run_step() for _ in range(4)]
    for _ in range(2):
        part.run_step()
    rest.load_state(part.state())
    assert [rest.run_step() for _ in range(2)] == losses[2:]
    for expected, actual in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(expected, actual)
