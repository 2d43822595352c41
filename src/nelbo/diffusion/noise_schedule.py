r"""Noise schedules: :math:`\gamma = -\log \mathrm{SNR}` as an increasing function of the time :math:`t \in [0, 1]`.

In continuous time the bound depends on a schedule through its two end points alone (eq. 18 of the paper); what lies
between them decides how noisy the bound's estimate is, and where the steps of a T-step chain fall.

Each is one class, which implements :class:`nelbo.diffusion.noise_schedule_interface.NoiseSchedule`, and one entry of
``NOISE_SCHEDULES``.

References:
    Variational Diffusion Models (Kingma et al., 2021), section 3.2, appendix H. https://arxiv.org/abs/2107.00630
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nelbo.diffusion.noise_schedule_interface import NoiseSchedule
from nelbo.errors import NelboError

_STEEPNESS = (8.0, 16.0, 32.0, 64.0)  # of a learned schedule's sigmoids at the start, in turn


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

    name = "linear"

    def __init__(self, gamma_0: float = -13.3, gamma_1: float = 5.0, learned: bool = False) -> None:
        super().__init__()
        _check_ends(gamma_0, gamma_1)
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

    name = "cosine"
    start: Tensor
    end: Tensor

    def __init__(self, gamma_0: float = -13.3, gamma_1: float = 5.0) -> None:
        super().__init__()
        _check_ends(gamma_0, gamma_1)
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

    name = "beta_linear"
    start: Tensor
    end: Tensor

    def __init__(self, gamma_0: float = -13.3, gamma_1: float = 5.0, beta_0: float = 0.1, beta_1: float = 20.0) -> None:
        super().__init__()
        _check_ends(gamma_0, gamma_1)
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

    name = "table"
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


class Learned(NoiseSchedule):
    r"""The paper's learned schedule: a monotone network, renormalised to run between two ends (eq. 59).

    .. math:: \gamma(t) = \gamma_0 + (\gamma_1 - \gamma_0)\,
              \frac{\tilde g(t) - \tilde g(0)}{\tilde g(1) - \tilde g(0)}, \qquad
              \tilde g(t) = a t + \tfrac1n \sum_{i=1}^n h_i\, \mathrm{sigmoid}(v_i t + c_i)

    The slope a, the heights h and the steepnesses v are exponentials of parameters, hence positive, and the schedule
    increases whatever the parameters are. The layers' other constants (the first layer's factor and offset, the last
    one's offset) are left out: eq. 59 or :math:`v, c` make up for them. It begins near a line, the sigmoids' centres
    spread evenly.

    Args:
        gamma_0: Gamma at t = 0.
        gamma_1: Gamma at t = 1, above ``gamma_0``.
        n_units: Number of sigmoids.
        learned_ends: Whether training moves the ends too.

    Raises:
        NelboError: If the ends do not increase, or there are no sigmoids.
    """

    name = "learned"

    def __init__(
        self, gamma_0: float = -13.3, gamma_1: float = 5.0, n_units: int = 1024, learned_ends: bool = True
    ) -> None:
        super().__init__()
        _check_ends(gamma_0, gamma_1)
        _check_units(n_units)
        centres = (torch.arange(n_units, dtype=torch.float64) + 0.5) / n_units
        steepness = torch.tensor(_STEEPNESS, dtype=torch.float64).repeat(-(-n_units // len(_STEEPNESS)))[:n_units]
        self.start = _scalar(gamma_0, learned_ends)
        self.width = _scalar(gamma_1 - gamma_0, learned_ends)
        self.log_slope = _scalar(0.0, learned=True)
        self.log_steepness = nn.Parameter(steepness.log())
        self.offsets = nn.Parameter(-steepness * centres)
        self.log_heights = nn.Parameter(torch.zeros(n_units, dtype=torch.float64))

    def forward(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Returns gamma at each time."""
        return self.start + self.width.abs() * self.shape(t)

    def shape(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Returns how far gamma has come at each time, from exactly 0 at t = 0 to exactly 1 at t = 1."""
        first, last = self._network(torch.zeros_like(t)), self._network(torch.ones_like(t))
        return (self._network(t) - first) / (last - first)

    @property
    def gamma_0(self) -> Float[Tensor, ""]:
        """Gamma of the cleanest latent; the interior has no part in it."""
        return self.start

    @property
    def gamma_1(self) -> Float[Tensor, ""]:
        """Gamma of the noisiest latent; the interior has no part in it."""
        return self.start + self.width.abs()

    @property
    def interior(self) -> list[nn.Parameter]:
        """The parameters that shape the schedule between its ends and leave these alone."""
        return [self.log_slope, self.log_steepness, self.offsets, self.log_heights]

    def _network(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        sigmoids = torch.sigmoid(self.log_steepness.exp() * t[..., None] + self.offsets)
        return self.log_slope.exp() * t + (self.log_heights.exp() * sigmoids).mean(-1)


class MonotoneNetwork(NoiseSchedule):
    r"""The monotone network of the official code (``learnable_nnet``): a line plus a sum of increasing sigmoids.

    .. math:: \gamma(t) = b + |w| t
              + \tfrac1n \sum_{i=1}^n |u_i| \bigl(2\,\mathrm{sigmoid}(|v_i| (2t - 1) + c_i) - 1\bigr)

    Unlike the paper's eq. 59 it is not renormalised, so its ends are wherever its weights put them.

    Args:
        gamma_0: Start of the line at initialisation.
        gamma_1: End of the line at initialisation, above ``gamma_0``.
        n_units: Number of sigmoids.

    Raises:
        NelboError: If the ends do not increase, or there are no sigmoids.
    """

    name = "monotone_network"

    def __init__(self, gamma_0: float = -13.3, gamma_1: float = 5.0, n_units: int = 1024) -> None:
        super().__init__()
        _check_ends(gamma_0, gamma_1)
        _check_units(n_units)
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


NOISE_SCHEDULES: dict[str, type[NoiseSchedule]] = {
    schedule.name: schedule for schedule in (Linear, Cosine, BetaLinear, Table, Learned, MonotoneNetwork)
}


def _scalar(value: float, learned: bool) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value, dtype=torch.float64), requires_grad=learned)


def _check_units(n_units: int) -> None:
    if n_units < 1:
        raise NelboError(f"a monotone network has at least one sigmoid, got n_units = {n_units}")


def _check_ends(gamma_0: float, gamma_1: float) -> None:
    if not -math.inf < gamma_0 < gamma_1 < math.inf:
        raise NelboError(
            f"a noise schedule increases between finite ends: gamma_0 = {gamma_0} must lie below gamma_1 = {gamma_1}"
        )
