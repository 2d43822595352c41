r"""The probability-flow ODE: a deterministic path from image to noise, along which a density can be followed.

The latents of a denoiser that is right flow, in the coordinate :math:`\gamma`, by

.. math:: \frac{\mathrm d z}{\mathrm d\gamma} = \tfrac12 \sigma (\hat\epsilon(z; \gamma) - \sigma z), \qquad
          \frac{\mathrm d \log p(z)}{\mathrm d\gamma}
          = -\tfrac12 \sigma \Bigl(\mathrm{tr} \frac{\partial\hat\epsilon}{\partial z} - \sigma D\Bigr),

so that :math:`\log p(z_0) = \log \mathcal N(z_1; 0, I) + \int_{\gamma_0}^{\gamma_1}` of the flow's divergence. In these
variance-preserving latents a network that predicts v has the drift :math:`\tfrac12 \sigma\alpha \hat v`, all of one
size. With any denoiser, :math:`p` is the density of a model of its own, which draws z_1 and follows the path back.

The integrator is torchdiffeq's Dormand-Prince pair of orders 5 and 4, with steps such that its own estimate of each
step's error stays below ``atol + rtol |state|`` in every image: in the root mean square of the latent's dimensions, and
in the log-density in nats per dimension.

References:
    Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021), section 4.3 and
    appendix D. https://arxiv.org/abs/2011.13456
    FFJORD (Grathwohl et al., 2019), which estimates the trace. https://arxiv.org/abs/1810.01367
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.diffusion.gaussian import sigma
from nelbo.errors import NelboError

Denoise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Tolerances:
    """What the integrator allows itself at each step.

    Attributes:
        rtol: Relative to the state.
        atol: Absolute: of latents, and of the log-density in nats per dimension.
    """

    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        """Raises NelboError unless both are positive numbers."""
        for name, value in vars(self).items():
            if not 0 < value < 1:
                raise NelboError(f"{name} is a tolerance between 0 and 1, such as 1e-5, got {value}")


def divergence(
    eps_hat: Float[Tensor, "b *chw"], z: Float[Tensor, "b *chw"], probe: Float[Tensor, "b *chw"] | None
) -> Float[Tensor, " b"]:
    r"""Returns the trace of :math:`\partial\hat\epsilon / \partial z`, of ``eps_hat`` computed from ``z``.

    Args:
        eps_hat: The denoiser's answer, with its graph.
        z: The latents, a leaf of that graph.
        probe: Hutchinson's random signs v, for the unbiased estimate :math:`v^T J v`; None for the exact trace by one
            backward pass for each dimension.
    """
    if probe is not None:
        (product,) = torch.autograd.grad(eps_hat, z, probe.to(eps_hat.dtype))
        return (product * probe).flatten(1).sum(1, dtype=torch.float64)
    outputs, total = eps_hat.flatten(1), torch.zeros(len(z), dtype=torch.float64, device=z.device)
    for i in range(outputs.shape[1]):
        (row,) = torch.autograd.grad(outputs[:, i].sum(), z, retain_graph=True)
        total += row.flatten(1)[:, i]
    return total


def flow(
    denoise: Denoise, z: Float[Tensor, "b *chw"], gamma: Float[Tensor, ""], probe: Float[Tensor, "b *chw"] | None
) -> tuple[Float[Tensor, "b *chw"], Float[Tensor, " b"]]:
    """Returns the flow's velocity dz/dgamma and its divergence, in float64.

    Args:
        denoise: Returns eps_hat of latents at gammas, differentiably, in the precision of its choice.
        z: Latents, float64.
        gamma: Where on the path.
        probe: See :func:`divergence`.
    """
    noise_scale, n_dims = sigma(gamma.double()), z[0].numel()
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        eps_hat = denoise(leaf, gamma.double().expand(len(z)))
        trace = divergence(eps_hat, leaf, probe)
    velocity = 0.5 * noise_scale * (eps_hat.detach().double() - noise_scale * z)
    return velocity, 0.5 * noise_scale * (trace - noise_scale * n_dims)


def log_density(
    denoise: Denoise,
    z_0: Float[Tensor, "b *chw"],
    gamma_0: float,
    gamma_1: float,
    probe: Float[Tensor, "b *chw"] | None = None,
    tolerances: Tolerances | None = None,
) -> tuple[Float[Tensor, " b"], int]:
    r"""Returns :math:`\log p(z_0)` in nats for each latent, and the number of network evaluations it took.

    Args:
        denoise: Returns eps_hat of latents at gammas.
        z_0: Latents at ``gamma_0``.
        gamma_0: Where the path begins.
        gamma_1: Where it ends, in pure noise.
        probe: Random signs for Hutchinson's estimate of the trace; None for the exact trace.
        tolerances: The integrator's.

    Raises:
        NelboError: If torchdiffeq is missing, or the integrator cannot keep to the tolerances.
    """
    integrate, tolerances, n_calls = _integrator(), tolerances or Tolerances(), 0

    def derivative(gamma: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal n_calls
        n_calls += 1
        velocity, trace = flow(denoise, state[0], gamma, probe)
        return velocity, trace / velocity[0].numel()

    z_0 = z_0.double()
    start = (z_0, torch.zeros(len(z_0), dtype=torch.float64, device=z_0.device))
    ends = torch.tensor([gamma_0, gamma_1], dtype=torch.float64, device=z_0.device)
    try:
        with torch.no_grad():
            latents, gains = integrate(
                derivative, start, ends, rtol=tolerances.rtol, atol=tolerances.atol, options={"norm": _worst_image}
            )
    except AssertionError as error:
        raise NelboError(
            f"the probability flow cannot be followed to rtol {tolerances.rtol} and atol {tolerances.atol} ({error}): "
            "allow larger ones"
        ) from None
    n_dims = z_0[0].numel()
    prior = -0.5 * (latents[-1].square().flatten(1).sum(1) + n_dims * math.log(math.tau))
    return prior + n_dims * gains[-1], n_calls


def _worst_image(state: tuple[Tensor, Tensor]) -> Tensor:
    """Returns the largest over images of the latent's root mean square and of the log-density."""
    latents, gains = state
    return torch.maximum(latents.square().flatten(1).mean(1).sqrt().max(), gains.abs().max())


def _integrator() -> Callable[..., tuple[Tensor, Tensor]]:
    try:
        import torchdiffeq
    except ImportError:
        raise NelboError("the probability flow needs the package torchdiffeq: run pip install nelbo[ode]") from None
    integrate: Any = torchdiffeq.odeint  # Its annotations do not tell a tensor's state from a tuple's.
    return integrate
