"""A long run says what it costs before it begins, a short one nothing; the time is measured on the first calls."""

import pytest
import torch

from nelbo.cli import cost
from nelbo.cli.cost import say_cost
from nelbo.diffusion.noise_schedule import Linear
from nelbo.nets.closed_form import GaussianDenoiser


@pytest.fixture
def model(exact_model):
    class Counted(GaussianDenoiser):
        def forward(self, z, gamma):
            self.n_seen = getattr(self, "n_seen", 0) + len(z)
            return super().forward(z, gamma)

    return exact_model(Counted(torch.zeros(1, 2, 2), torch.ones(4)), Linear(-9.0, 5.0))


@pytest.mark.parametrize(
    ("seconds", "n_calls", "said"),
    [
        (2.0, 1800, "1,800 network calls on an image, about 1 h 0 min\n"),
        (2.0, 31, "31 network calls on an image, about 1 min 2 s\n"),
        (2.0, 29, ""),
        (0.01, 1800, ""),
        (10.0, 19, ""),
    ],
)
def test_runs_of_more_than_a_minute_say_so(model, monkeypatch, capsys, seconds, n_calls, said):
    monkeypatch.setattr(cost, "_seconds", lambda model, n, precision: seconds * n)
    say_cost(model, n_calls, 64, "float32")
    assert capsys.readouterr().err == said
    say_cost(model, n_calls, 64, "float32", quiet=True)
    assert capsys.readouterr().err == ""


def test_few_calls_are_spent_on_it(model):
    say_cost(model, 10_000, 32, "float32")
    assert model.denoiser.n_seen == 1 + 1 + 2 * 32
    say_cost(model, 19, 32, "float32")
    assert model.denoiser.n_seen == 66
