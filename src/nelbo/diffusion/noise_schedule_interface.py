r"""What a noise schedule is: an increasing function of time, with its derivative, its inverse and its ends.

A schedule implements :meth:`NoiseSchedule.forward`. Its derivative is a Jacobian-vector product of it and its inverse
a bisection, so that the three cannot disagree. Everything is float64: near :math:`\gamma = -13.3` a float32 difference
of two neighbouring gammas has lost most of its digits.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

_BISECTIONS = 64  # halves [0, 1] below the spacing of float64 everywhere


class NoiseSchedule(nn.Module, ABC):
    """An increasing map from t in [0, 1] to gamma; t = 0 is the cleanest latent, t = 1 the noisiest.

    The arguments of its constructor are its settings: a model's ``config.json`` holds them, under their names.

    Attributes:
        name: Its name among ``NOISE_SCHEDULES``, the ``type`` of its settings.
    """

    name: ClassVar[str]

    @abstractmethod
    def forward(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Returns gamma at each time ``t`` in [0, 1], in float64."""

    def derivative(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Returns :math:`\gamma'(t) = \mathrm d\gamma / \mathrm d t` (a Jacobian-vector product; it compiles)."""
        return torch.func.jvp(self.forward, (t,), (torch.ones_like(t),))[1]

    def inverse(self, gamma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Returns the time at which the schedule reaches ``gamma``, by bisection; 0 or 1 beyond its ends.

        Its gradient is that of the implicit function :math:`\gamma_\theta(t) = \gamma`, and 0 beyond the ends:

        .. math:: \frac{\partial t}{\partial \gamma} = \frac{1}{\gamma_\theta'(t)}, \qquad
                  \frac{\partial t}{\partial \theta} = -\frac{\partial_\theta \gamma_\theta(t)}{\gamma_\theta'(t)}
        """
        t = self._bisect(gamma)
        residual = gamma - self(t)
        if not residual.requires_grad:
            return t
        inside = (gamma > self.gamma_0) & (gamma < self.gamma_1)
        moved = (residual - residual.detach()) / self.derivative(t).detach()
        return t + torch.where(inside, moved, torch.zeros_like(moved))

    @torch.no_grad()
    def _bisect(self, gamma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        low, high = torch.zeros_like(gamma), torch.ones_like(gamma)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            below = self(middle) < gamma
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return 0.5 * (low + high)

    @property
    def gamma_0(self) -> Float[Tensor, ""]:
        """Gamma of the cleanest latent, which the decoder reads."""
        return self(self._time(0.0))

    @property
    def gamma_1(self) -> Float[Tensor, ""]:
        """Gamma of the noisiest latent, which the prior stands for."""
        return self(self._time(1.0))

    def grid(self, n_steps: int) -> Float[Tensor, " n"]:
        """Returns the ``n_steps + 1`` gammas at which the T-step chain with T = ``n_steps`` stops, increasing."""
        return self(torch.arange(n_steps + 1, dtype=torch.float64, device=self._time(0.0).device) / n_steps)

    @property
    def is_learned(self) -> bool:
        """Whether training moves the schedule."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @property
    def moves_its_ends(self) -> bool:
        """Whether training moves gamma_0 or gamma_1."""
        inside = {id(parameter) for parameter in self.interior}
        return any(p.requires_grad and id(p) not in inside for p in self.parameters())

    @property
    def interior(self) -> list[nn.Parameter]:
        """The parameters that shape the schedule between its ends and leave these alone; none, unless learned so."""
        return []

    def _time(self, t: float) -> Float[Tensor, ""]:
        device = next((tensor.device for tensor in [*self.parameters(), *self.buffers()]), None)
        return torch.tensor(t, dtype=torch.float64, device=device)
