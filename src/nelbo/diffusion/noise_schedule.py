r"""Noise schedules: :math:`\gamma = -\log \mathrm{SNR}` as an increasing function of the time :math:`t \in [0, 1]`.

In continuous time the bound depends on a schedule through its two end points alone (eq. 18 of the paper); what lies
between them decides how noisy the bound's estimate is, and where the steps of a T-step chain fall.

A schedule implements :meth:`NoiseSchedule.forward`. Its derivative is a Jacobian-vector product of it and its inverse
a bisection, so that the three cannot disagree. Everything is float64: near :math:`\gamma = -13.3` a float32 difference
of two neighbouring gammas has lost most of its digits.

References:
    Variational Diffusion Models (Kingma et al., 2021), section 3.2, appendix H. https://arxiv.org/abs/2107.00630
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nelbo.errors import NelboError

_BISECTIONS = 64  # halves [0, 1] below the spacing of float64 everywhere


class NoiseSchedule(nn.Module, ABC):
    """An increasing map from t in [0, 1] to gamma; t = 0 is the cleanest latent, t = 1 the noisiest."""

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


class Linear(NoiseSchedule):
    r"""Linear in the log-SNR: :math:`\gamma(t) = \gamma_0 + |w| t`, with both ends learned if asked.

    This is the schedule of the paper's released CIFAR-10 model (``learnable_scalar``).

    Args:
        gamma_0: Gamma at t = 0.
        gamma_1: Gamma at t = 1, above ``gamma_0``.
        learned: Whether training moves the end points.

    Raises:
        NelboError: If the ends do not increase.
    """

    def __init__(self, gamma_0: float, gamma_1: float, learned: bool = False) -> None:
        super().__init__()
        check_ends(gamma_0, gamma_1)
        self.start = _scalar(gamma_0, learned)
        self.width = _scalar(gamma_1 - gamma_0, learned)

    def forward(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Returns gamma at each time."""
        return self.start + self.width.abs() * t


class Cosine(NoiseSchedule):
    r"""The alpha-cosine schedule :math:`\alpha = \cos(\theta)`, :math:`\theta` linear in t, cut to the given ends.

    .. math:: \gamma(t) = 2 \log\tan\theta(t), \qquad
              \theta(0) = \arctan e^{\gamma_0/2},\ \theta(1) = \arctan e^{\gamma_1/2}

    Args:
        gamma_0: Gamma at t = 0.
        gamma_1: Gamma at t = 1, above ``gamma_0``.

    Raises:
        NelboError: If the ends do not increase.

    References:
        Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021). https://arxiv.org/abs/2102.09672
    """

    start: Tensor
    end: Tensor

    def __init__(self, gamma_0: float, gamma_1: float) -> None:
        super().__init__()
        check_ends(gamma_0, gamma_1)
        self.register_buffer("start", torch.tensor(math.atan(math.exp(gamma_0 / 2)), dtype=torch.float64))
        self.register_buffer("end", torch.tensor(math.atan(math.exp(gamma_1 / 2)), dtype=torch.float64))

    def forward(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Returns gamma at each time."""
        return 2 * torch.log(torch.tan(self.start + (self.end - self.start) * t))


class BetaLinear(NoiseSchedule):
    r"""DDPM's beta-linear schedule in continuous time, cut to the given ends.

    .. math:: \gamma = \log\mathrm{expm1}(B(\tau)), \qquad B(\tau) = -\log\alpha^2
              = \beta_0 \tau + \tfrac12 (\beta_1 - \beta_0)\, \tau^2

    with :math:`\tau` linear in t between the times at which :math:`\gamma` is ``gamma_0`` and ``gamma_1``.

    Args:
        gamma_0: Gamma at t = 0.
        gamma_1: Gamma at t = 1, above ``gamma_0``.
        beta_0: The rate of diffusion at :math:`\tau = 0`; DDPM's 0.0001 a step, 1000 steps a unit of time.
        beta_1: The rate of diffusion at :math:`\tau = 1`; DDPM's 0.02 a step. It may go on rising beyond.

    Raises:
        NelboError: If the ends do not increase, or the rates are not positive and increasing.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), section 4. https://arxiv.org/abs/2006.11239
        Score-Based Generative Modeling through SDEs (Song et al., 2021), eq. 32. https://arxiv.org/abs/2011.13456
    """

    start: Tensor
    end: Tensor

    def __init__(self, gamma_0: float, gamma_1: float, beta_0: float = 0.1, beta_1: float = 20.0) -> None:
        super().__init__()
        check_ends(gamma_0, gamma_1)
        if not 0 < beta_0 < beta_1 < math.inf:
            raise NelboError(f"the rates of diffusion are positive and increase, got beta_0 = {beta_0}, {beta_1 = }")
        self.beta_0, self.rise = beta_0, beta_1 - beta_0
        self.register_buffer("start", self._tau(gamma_0))
        self.register_buffer("end", self._tau(gamma_1))

    def forward(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Returns gamma at each time."""
        tau = self.start + (self.end - self.start) * t
        decay = tau * (self.beta_0 + 0.5 * self.rise * tau)
        return decay + torch.log(-torch.expm1(-decay))

    def _tau(self, gamma: float) -> Float[Tensor, ""]:
        """Returns the time at which the uncut schedule reaches gamma, the positive root of a quadratic."""
        decay = torch.nn.functional.softplus(torch.tensor(gamma, dtype=torch.float64))
        return 2 * decay / (self.beta_0 + torch.sqrt(self.beta_0**2 + 2 * self.rise * decay))


class Table(NoiseSchedule):
    """Linear interpolation between increasing gammas, spread evenly over [0, 1].

    Args:
        gammas: At least two increasing gammas; entry i of N + 1 is reached at t = i / N.

    Raises:
        NelboError: If there are fewer than two gammas, or they do not strictly increase.
    """

    gammas: Tensor

    def __init__(self, gammas: Sequence[float]) -> None:
        super().__init__()
        values = torch.as_tensor(gammas, dtype=torch.float64)
        if len(values) < 2 or not bool(values.isfinite().all() and (values.diff() > 0).all()):
            raise NelboError(f"a table of gammas needs two or more finite, increasing values, got {values.tolist()}")
        self.register_buffer("gammas", values)

    def forward(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Returns gamma at each time."""
        position = t * (len(self.gammas) - 1)
        cell = position.detach().floor().long().clamp(0, len(self.gammas) - 2)
        left, right = self.gammas[cell], self.gammas[cell + 1]
        return left + (right - left) * (position - cell)


class MonotoneNetwork(NoiseSchedule):
    r"""The monotone network of the official code (``learnable_nnet``): a line plus a sum of increasing sigmoids.

    .. math:: \gamma(t) = b + |w| t
              + \tfrac1n \sum_{i=1}^n |u_i| \bigl(2\,\mathrm{sigmoid}(|v_i| (2t - 1) + c_i) - 1\bigr)

    Unlike the paper's eq. 59 it is not renormalised, so its ends are wherever its weights put them.

    Args:
        gamma_0: Start of the line at initialisation.
        gamma_1: End of the line at initialisation, above ``gamma_0``.
        n_units: Number of sigmoids.
    """

    def __init__(self, gamma_0: float, gamma_1: float, n_units: int = 1024) -> None:
        super().__init__()
        check_ends(gamma_0, gamma_1)
        self.start = _scalar(gamma_0, learned=True)
        self.width = _scalar(gamma_1 - gamma_0, learned=True)
        self.slopes = nn.Parameter(0.01 * torch.randn(n_units, dtype=torch.float64))
        self.offsets = nn.Parameter(torch.zeros(n_units, dtype=torch.float64))
        self.heights = nn.Parameter(0.01 * torch.randn(n_units, dtype=torch.float64))

    def forward(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Returns gamma at each time."""
        sigmoids = torch.sigmoid(self.slopes.abs() * (2 * t[..., None] - 1) + self.offsets)
        curve = (self.heights.abs() * (2 * sigmoids - 1)).mean(-1)
        return self.start + self.width.abs() * t + curve


def _scalar(value: float, learned: bool) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value, dtype=torch.float64), requires_grad=learned)


def check_ends(gamma_0: float, gamma_1: float) -> None:
    """Raises NelboError unless the ends are finite and increase."""
    if not -math.inf < gamma_0 < gamma_1 < math.inf:
        raise NelboError(
            f"a noise schedule increases between finite ends: gamma_0 = {gamma_0} must lie below gamma_1 = {gamma_1}"
        )
