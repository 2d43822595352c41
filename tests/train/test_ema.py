"""The weight average follows its closed form, and its memory grows with the run."""

import pytest
import torch
from torch import nn

from nelbo.train.ema import WeightAverage
from nelbo.train.loop import Trainer


def trajectory(rate, n_updates, seed=0):
    """Returns the weights after each update, beginning with the first ones, and the averages beside them."""
    torch.manual_seed(seed)
    model = nn.Linear(5, 3, dtype=torch.float64)
    average = WeightAverage(model, rate)
    weights, averages = [model.weight.detach().clone()], [average.model.weight.clone()]
    for n in range(1, n_updates + 1):
        with torch.no_grad():
            model.weight.add_(torch.randn_like(model.weight))
        average.update(model, n)
        weights.append(model.weight.detach().clone())
        averages.append(average.model.weight.clone())
    return weights, averages


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9, 0.9999])
def test_the_average_is_the_weighted_sum_of_all_weights_so_far(rate):
    n = 40
    weights, averages = trajectory(rate, n)
    decays = torch.tensor([min(rate, (1 + k) / (10 + k)) for k in range(1, n + 1)], dtype=torch.float64)
    tails = torch.cat([decays.flip(0).cumprod(0).flip(0), torch.ones(1, dtype=torch.float64)])
    shares = torch.cat([tails[:1], (1 - decays) * tails[1:]])  # of the weights before and after each update
    torch.testing.assert_close(shares.sum(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(averages[-1], torch.einsum("k,kij->ij", shares, torch.stack(weights)))


def test_the_memory_grows_up_to_the_rate():
    _, averages = trajectory(0.9, 200)
    weights, _ = trajectory(0.9, 200)
    kept = []
    for n in range(1, 201):  # average_n = d average_{n-1} + (1 - d) weights_n, solved for d
        change, pull = averages[n] - averages[n - 1], weights[n] - averages[n - 1]
        kept.append(1 - (change / pull).mean())
    decays = torch.stack(kept)
    assert decays[0] == pytest.approx(2 / 11)
    assert bool((decays.diff() > -1e-9).all())
    torch.testing.assert_close(decays[-20:], torch.full((20,), 0.9, dtype=torch.float64))


def test_the_average_is_apart_from_the_model_and_copies_buffers():
    model = nn.BatchNorm1d(4)
    average = WeightAverage(model, 0.9)
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    model(torch.randn(16, 4))
    average.update(model, 1)
    torch.testing.assert_close(dict(average.model.named_buffers()), dict(model.named_buffers()))
    addresses = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert addresses.isdisjoint(tensor.data_ptr() for tensor in average.model.state_dict().values())


def test_a_run_averages_its_weights_by_the_number_of_its_steps(tiny, images, world):
    trainer = Trainer(tiny("ema_rate=0.9999"), images, world)
    average = [p.detach().clone() for p in trainer.model.parameters()]
    for n in range(1, 4):
        trainer.run_step()
        decay = (1 + n) / (10 + n)
        average = [
            decay * a + (1 - decay) * p.detach() for a, p in zip(average, trainer.model.parameters(), strict=True)
        ]
    torch.testing.assert_close(list(trainer.average.model.parameters()), average, rtol=1e-5, atol=1e-7)
