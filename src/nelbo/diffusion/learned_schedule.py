r"""The gradients that the parts of a learned noise schedule descend: its two ends, and what lies between them.

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
from torch import Tensor
from torch.autograd import Function

from nelbo.diffusion.noise_schedule import Learned

_Context = Any  # What autograd passes to a function has no public type that knows its saved tensors.


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
