"""The exponential moving average of the weights, which is the model that a run gives."""

from copy import deepcopy
from typing import Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class WeightAverage(Generic[Model]):
    r"""An average of a model's weights whose memory grows with the run.

    .. math:: \bar\theta \leftarrow d\, \bar\theta + (1 - d)\, \theta, \qquad d = \min(r, (1 + n) / (10 + n))

    Args:
        model: The model; its copy becomes :attr:`model`.
        rate: The decay r of the long run.
    """

    def __init__(self, model: Model, rate: float) -> None:
        self.model = deepcopy(model).requires_grad_(False).eval()
        self.rate = rate

    @torch.no_grad()
    def update(self, model: Model, n_updates: int) -> None:
        """Takes the weights into the average after update number ``n_updates`` (the first is 1)."""
        step = 1 - min(self.rate, (1 + n_updates) / (10 + n_updates))
        averages, weights = list(self.model.parameters()), list(model.parameters())
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight.detach(), step)
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
