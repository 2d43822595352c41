r"""The learned noise schedule: a monotone network between two learned ends, and the gradients its parts descend.

The ends are learned like any weight: they descend the bound. What lies between them does not change the bound of
continuous time (eq. 18), so it is given another task: to make the Monte Carlo estimate of the bound least noisy
(appendix I.2). The mean of the estimate :math:`\ell` is fixed, hence its variance is least where its mean square is,

.. math:: \nabla_\eta \operatorname{Var}[\ell] = \nabla_\eta \mathbb E[\ell^2]
          = \mathbb E[2\, \ell\, \nabla_\eta \ell], \qquad
          \ell = \tfrac12 \gamma_\eta'(t)\, \|\epsilon - \hat\epsilon(z_t; \gamma_\eta(t))\|^2 .

:math:`\nabla_\eta \ell` passes through :math:`\gamma(t)` and :math:`\gamma'(t)` alone, two numbers an image whose
derivatives the denoiser's backward pass brings anyway (eq. 61, 62). :func:`fork` therefore puts a fork into the graph
at these numbers, and :func:`join` tells it the losses: as the gradient arrives at the fork, the ends get it as it is,
and the interior gets each image's multiplied by :math:`2 \ell`. It is one graph and one backward pass, so whatever
works with graphs (compilation, several processes) works with it.

References:
    Variational Diffusion Models (Kingma et al., 2021), appendices H and I.2. https://arxiv.org/abs/2107.00630
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function

from nelbo.diffusion.noise_schedule import NoiseSchedule, check_ends

_Context = Any  # What autograd passes to a function has no public type that knows its saved tensors.
_STEEPNESS = (8.0, 16.0, 32.0, 64.0)  # of the sigmoids at the start, in turn


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
        NelboError: If the ends do not increase.
    """

    def __init__(self, gamma_0: float, gamma_1: float, n_units: int = 1024, learned_ends: bool = True) -> None:
        super().__init__()
        check_ends(gamma_0, gamma_1)
        centres = (torch.arange(n_units, dtype=torch.float64) + 0.5) / n_units
        steepness = torch.tensor(_STEEPNESS, dtype=torch.float64).repeat(-(-n_units // len(_STEEPNESS)))[:n_units]
        self.start = _parameter(torch.tensor(gamma_0, dtype=torch.float64), learned_ends)
        self.width = _parameter(torch.tensor(gamma_1 - gamma_0, dtype=torch.float64), learned_ends)
        self.log_slope = _parameter(torch.tensor(0.0, dtype=torch.float64))
        self.log_steepness = _parameter(steepness.log())
        self.offsets = _parameter(-steepness * centres)
        self.log_heights = _parameter(torch.zeros(n_units, dtype=torch.float64))

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


Fork = tuple[Float[Tensor, " b"], Float[Tensor, " b"], Float[Tensor, " b"]]


def fork(schedule: Learned, t: Float[Tensor, " b"]) -> Fork:
    r"""Returns :math:`\gamma(t)`, :math:`\gamma'(t)` and a token for :func:`join`, whose gradients part ways.

    Whatever loss is made of gamma and its derivative, the schedule's ends receive its gradient, and the interior the
    gradient of the loss that :func:`join` makes of the token.

    Args:
        schedule: The schedule.
        t: The time of each image.
    """
    width = schedule.width.abs()
    shape, rate = torch.func.jvp(schedule.shape, (t,), (torch.ones_like(t),))[:2]
    return _Fork.apply(
        schedule.start + width * shape.detach(),
        width * rate.detach(),
        schedule.start.detach() + width.detach() * shape,
        width.detach() * rate,
    )


def join(loss: Float[Tensor, " b"], token: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    r"""Returns the losses as they are; the fork that the token comes from passes :math:`2 \ell \nabla_\eta \ell` on.

    So the gradient of the mean of what is returned is, for the interior, that of the mean of its squares.

    Args:
        loss: The loss of each image, made of a fork's gamma and derivative of that image.
        token: The fork's token.
    """
    return _Join.apply(loss, token)


class _Fork(Function):
    """Two routes to the same numbers become one; the token's gradient weighs what goes back by the second."""

    @staticmethod
    def forward(ctx: _Context, *routes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the first route's gamma and derivative, and zeros for the token."""
        gamma, slope, _, _ = routes
        return gamma.clone(), slope.clone(), torch.zeros_like(gamma)

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the gradients of both routes."""
        of_gamma, of_slope, weight = gradients
        return of_gamma, of_slope, weight * of_gamma, weight * of_slope


class _Join(Function):
    """Sends twice the loss back to the token."""

    @staticmethod
    def forward(ctx: _Context, loss: Tensor, _: Tensor) -> Tensor:
        """Returns the loss."""
        ctx.save_for_backward(loss)
        return loss.clone()

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the gradients of the loss and of the token."""
        (loss,) = ctx.saved_tensors
        return gradients[0], 2 * loss


def _parameter(value: Tensor, learned: bool = True) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=learned)
