r"""The bound: the negative evidence lower bound of an image, term by term, in nats.

.. math:: -\log p(x) \le
    \underbrace{\mathrm{KL}(q(z_1 \mid x) \parallel p(z_1))}_{\text{prior}}
    + \underbrace{\mathbb E[-\log p(x \mid z_0)]}_{\text{reconstruction}}
    + \underbrace{\mathcal L_T(x)}_{\text{diffusion}}

The diffusion term is a sum over the T steps of the chain, estimated at one random step (eq. 13), or in continuous time
an integral over t, estimated at one random time (eq. 17), drawn evenly or where the loss lies
(:mod:`nelbo.diffusion.importance`). :func:`bound` is a deterministic function of the image and of
its :class:`Draws`; drawing them is the caller's business, so that any estimate can be repeated exactly.

References:
    Variational Diffusion Models (Kingma et al., 2021), "Variational lower bound" and "Discrete-time model".
    https://arxiv.org/abs/2107.00630
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nelbo.diffusion.decoder import Decoder, discretised_gaussian, to_unit
from nelbo.diffusion.gaussian import alpha, denoised, diffuse, sigma
from nelbo.diffusion.importance import Profile, draw_gamma, draw_step, step_masses
from nelbo.diffusion.noise_schedule import NoiseSchedule
from nelbo.diffusion.reverse import ReverseKernel

MAX_DRAWN = 10_000  # A VDM's chain of more steps has them drawn evenly: all its levels would have to be known.


@dataclass(frozen=True)
class Draws:
    """The randomness of one estimate of the bound, for a batch of images.

    Attributes:
        eps_0: Standard normal noise of the cleanest latent, shape (b, c, h, w).
        u: The time of each image in [0, 1), float64, shape (b,); a T-step bound rounds it up to a step.
        eps_t: Standard normal noise of the latent at that time, shape (b, c, h, w).
    """

    eps_0: Float[Tensor, "b *chw"]
    u: Float[Tensor, " b"]
    eps_t: Float[Tensor, "b *chw"]


@dataclass(frozen=True)
class Bound:
    """The three terms of the bound in nats per image, float64, shape (b,).

    Attributes:
        prior: KL(q(z_1 | x) || p(z_1)).
        reconstruction: An estimate of E[-log p(x | z_0)].
        diffusion: An estimate of the diffusion loss.
        n_dims: Dimensions of one image.
    """

    prior: Float[Tensor, " b"]
    reconstruction: Float[Tensor, " b"]
    diffusion: Float[Tensor, " b"]
    n_dims: int

    @property
    def total(self) -> Float[Tensor, " b"]:
        """The bound in nats per image."""
        return self.prior + self.reconstruction + self.diffusion

    @property
    def bpd(self) -> Float[Tensor, " b"]:
        """The bound in bits per dimension."""
        return to_bpd(self.total, self.n_dims)


@dataclass(frozen=True, eq=False)
class BoundedModel:
    r"""All that the bound needs of a model, conditioned on all that is known of a batch of images.

    Attributes:
        noise_schedule: Gamma as a function of time.
        gammas: The increasing gammas of a discrete-time model; None where the denoiser takes any gamma.
        decoder: :math:`p(x \mid z_0)`.
        reverse: :math:`p(z_s \mid z_t)`.
        exit_std: The standard deviation of the last step, where that is a network evaluation.
        exit_std_large: The largest, of a model with learned variances, whose smallest is ``exit_std``.
        predict: Returns :math:`\hat\epsilon(z; \gamma)` and, of a model with learned variances, :math:`\nu`; see
            :meth:`nelbo.models.interface.DiffusionModel.predict`.
    """

    noise_schedule: NoiseSchedule
    gammas: Tensor | None
    decoder: Decoder
    reverse: ReverseKernel
    exit_std: float | None
    exit_std_large: float | None
    predict: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


def to_bpd(nats: Float[Tensor, "*b"], n_dims: int) -> Float[Tensor, "*b"]:
    """Returns bits per dimension.

    Example:
        >>> to_bpd(torch.tensor(3072 * math.log(2)), 3072)
        tensor(1.)
    """
    return nats / (n_dims * math.log(2))


def prior_kl(x: Float[Tensor, "b *chw"], gamma_1: Float[Tensor, ""]) -> Float[Tensor, " b"]:
    r"""Returns :math:`\mathrm{KL}(q(z_1 \mid x) \parallel p(z_1))` in nats per image, float64."""
    return prior_kl_of(x.double().square().flatten(1).sum(1), x[0].numel(), gamma_1)


def prior_kl_of(square: Float[Tensor, "..."], n_dims: int, gamma_1: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    r"""Returns :math:`\tfrac12 (\alpha_1^2 \|x\|^2 + d\,(\sigma_1^2 - \log\sigma_1^2 - 1))` in nats, float64.

    Args:
        square: :math:`\|x\|^2` of an image, or its mean.
        n_dims: d, the dimensions of one image.
        gamma_1: Negative log-SNR of the noisiest latent.
    """
    gamma_1 = gamma_1.double()
    constant = sigma(gamma_1).square() - torch.nn.functional.logsigmoid(gamma_1) - 1
    return 0.5 * (alpha(gamma_1).square() * square + n_dims * constant)


def reconstruction(
    model: BoundedModel, images: UInt8[Tensor, "b *chw"], eps_0: Float[Tensor, "b *chw"], n_steps: int | None = None
) -> Float[Tensor, " b"]:
    r"""Returns :math:`-\log p(x \mid z_0)` for :math:`z_0 = \alpha_0 x + \sigma_0 \epsilon_0`, in nats per image.

    A VDM decodes the latent itself; a DDPM, which has an ``exit_std``, its network's prediction of the image, from the
    cleanest of the levels it keeps.
    """
    gamma_0 = model.noise_schedule.gamma_0
    if model.gammas is not None and n_steps is not None:
        gamma_0 = model.gammas[even_nodes(len(model.gammas), n_steps)[0]].to(eps_0.device)
    gammas = gamma_0.expand(len(images))
    z_0 = diffuse(to_unit(images), eps_0, gammas)
    if model.exit_std is None:
        return -model.decoder.log_likelihood(images, z_0, gamma_0)
    eps_hat, nu = model.predict(z_0, gammas)
    return exit_loss(images, denoised(z_0, eps_hat, gammas), model.exit_std, model.exit_std_large, nu)


def exit_loss(
    images: UInt8[Tensor, "b *chw"],
    x_hat: Float[Tensor, "b *chw"],
    std: float,
    std_large: float | None = None,
    nu: Float[Tensor, "b *chw"] | None = None,
) -> Float[Tensor, " b"]:
    r"""Returns :math:`-\log p(x \mid z)` of a discretised Gaussian around a prediction, in nats per image, float64.

    With learned variances the network interpolates the last step's too,
    :math:`\ln\tau = \nu \ln\tau_\text{large} + (1 - \nu) \ln\tau_\text{small}`.

    Args:
        images: 8-bit images.
        x_hat: Their predictions.
        std: The standard deviation, or the smallest of a model with learned variances.
        std_large: The largest of such a model.
        nu: Where between the two the network puts each pixel's.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), eq. 13.
        Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), eq. 15, and its code at t = 0.
    """
    x = to_unit(images).double()
    log_std = torch.full_like(x, math.log(std))
    if std_large is not None and nu is not None:
        log_std = log_std + math.log(std_large / std) * nu.double()
    return -discretised_gaussian(x, x_hat.double(), torch.exp(log_std)).flatten(1).sum(1)


def squared_error(
    model: BoundedModel,
    x: Float[Tensor, "b *chw"],
    eps: Float[Tensor, "b *chw"],
    gamma: Float[Tensor, " b"],
) -> Float[Tensor, " b"]:
    r"""Returns :math:`\|\epsilon - \hat\epsilon(z_t; \gamma_t)\|^2`, summed over dimensions in float64."""
    eps_hat, _ = model.predict(diffuse(x, eps, gamma), gamma)
    return (eps - eps_hat).square().flatten(1).sum(1, dtype=torch.float64)


def continuous_diffusion(
    model: BoundedModel,
    x: Float[Tensor, "b *chw"],
    u: Float[Tensor, " b"],
    eps: Float[Tensor, "b *chw"],
    profile: Profile | None = None,
) -> Float[Tensor, " b"]:
    r"""Returns :math:`\tfrac12 \gamma'(t) \|\epsilon - \hat\epsilon\|^2` at t = u, the estimate of eq. 17, in nats.

    With a profile, u draws gamma itself, and one over the density of gamma stands in place of :math:`\gamma'(t)`.
    """
    if profile is None:
        return diffusion_at(model, x, eps, model.noise_schedule(u), model.noise_schedule.derivative(u))
    ends = model.noise_schedule.gamma_0, model.noise_schedule.gamma_1
    return diffusion_at(model, x, eps, *draw_gamma(profile, *ends, u))


def diffusion_at(
    model: BoundedModel,
    x: Float[Tensor, "b *chw"],
    eps: Float[Tensor, "b *chw"],
    gamma: Float[Tensor, " b"],
    slope: Float[Tensor, " b"],
) -> Float[Tensor, " b"]:
    r"""Returns :math:`\tfrac12 \gamma'(t) \|\epsilon - \hat\epsilon\|^2` in nats, given gamma and gamma' at t."""
    return 0.5 * slope * squared_error(model, x, eps, gamma)


def discrete_diffusion(
    model: BoundedModel,
    x: Float[Tensor, "b *chw"],
    u: Float[Tensor, " b"],
    eps: Float[Tensor, "b *chw"],
    n_steps: int,
    profile: Profile | None = None,
) -> Float[Tensor, " b"]:
    r"""Returns the cost of the one step that the time u draws over its probability, in nats.

    Without a profile all T steps are as likely, which is the estimate of eq. 13 and 14:

    .. math:: T\, \mathrm{KL}(q(z_s \mid z_t, x) \parallel p(z_s \mid z_t)), \qquad
              s = (i - 1)/T,\ t = i/T,\ i = \lfloor u T \rfloor + 1
    """
    gamma_s, gamma_t, weight = draw_steps(model, u, n_steps, profile)
    if not len(weight):
        return torch.zeros_like(u)
    eps_hat, nu = model.predict(diffuse(x, eps, gamma_t), gamma_t)
    return weight * model.reverse.step_kl(eps - eps_hat, gamma_s, gamma_t, nu)


def draw_steps(
    model: BoundedModel, u: Float[Tensor, " b"], n_steps: int, profile: Profile | None = None
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"], Float[Tensor, " k"]]:
    """Returns the two ends of the step that each time draws, and one over its probability; nothing if there is none.

    A VDM's T steps are even in time and end at z_0, which is decoded without the network. A discrete-time model stops
    at T of its own levels, evenly chosen with both ends; its last network call decodes, so T - 1 steps are left.
    """
    if model.gammas is None and (profile is None or n_steps > MAX_DRAWN):
        step = torch.floor(u * n_steps) + 1
        ends = model.noise_schedule((step - 1) / n_steps), model.noise_schedule(step / n_steps)
        return *ends, torch.full_like(u, n_steps)
    levels = chain_levels(model, n_steps).to(u.device)
    if len(levels) == 1:
        return u[:0], u[:0], u[:0]
    step, weight = draw_step(step_masses(profile, levels), u)
    return levels[step], levels[step + 1], weight


def chain_levels(model: BoundedModel, n_steps: int) -> Float[Tensor, " n"]:
    """Returns the levels between which the steps of a T-step chain lie: a VDM's begin at z_0."""
    if model.gammas is None:
        return model.noise_schedule.grid(n_steps)
    return model.gammas[even_nodes(len(model.gammas), n_steps)]


def even_nodes(n_nodes: int, n_kept: int) -> list[int]:
    """Returns evenly spread positions among a model's levels, the noisiest always, the cleanest if there are two.

    Example:
        >>> even_nodes(1000, 4)
        [0, 333, 666, 999]
    """
    if n_kept == 1:
        return [n_nodes - 1]
    return [round(i * (n_nodes - 1) / (n_kept - 1)) for i in range(n_kept)]


def diffusion(
    model: BoundedModel,
    images: UInt8[Tensor, "b *chw"],
    draws: Draws,
    n_steps: int | None,
    profile: Profile | None = None,
) -> Float[Tensor, " b"]:
    """Returns an estimate of the diffusion loss in nats per image.

    ``n_steps`` None is continuous time, or all levels of a discrete-time model.
    """
    x = to_unit(images)
    if n_steps is None and model.gammas is None:
        return continuous_diffusion(model, x, draws.u, draws.eps_t, profile)
    n_levels = 0 if model.gammas is None else len(model.gammas)
    return discrete_diffusion(model, x, draws.u, draws.eps_t, n_steps or n_levels, profile)


def bound(
    model: BoundedModel,
    images: UInt8[Tensor, "b *chw"],
    draws: Draws,
    n_steps: int | None = None,
    profile: Profile | None = None,
) -> Bound:
    """Returns one estimate of the bound of each image.

    Args:
        model: The model whose bound it is.
        images: 8-bit images, shape (b, c, h, w).
        draws: The randomness of the estimate.
        n_steps: T of the T-step chain, or None for continuous time, or for all levels of a discrete-time model.
        profile: Where the diffusion loss lies: its steps are drawn in proportion. Without it all are as likely.
    """
    return Bound(
        prior=prior_kl(to_unit(images), model.noise_schedule.gamma_1),
        reconstruction=reconstruction(model, images, draws.eps_0, n_steps),
        diffusion=diffusion(model, images, draws, n_steps, profile),
        n_dims=images[0].numel(),
    )
