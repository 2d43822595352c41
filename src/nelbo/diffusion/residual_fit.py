"""Fitting an exit: the weights and scales with which residuals of a few images cost the fewest nats."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nelbo.decoder import to_unit
from nelbo.exit import MIN_STD, Exit, situations

_ROUNDS = 3
_NEWTON_STEPS = 8
_ROUNDINGS = (0.0, 0.5, 1.0)
_RIDGE = 1e-6


def fit_exit(kind: str, images: UInt8[Tensor, "b c h w"], x_hat: Float[Tensor, "b c h w"]) -> Exit:
    """Returns the exit of a kind that suits predictions of images, all at one noise level; it lives on the CPU.

    Weights and scales take turns: weighted least squares for the means, Newton's method on the Gaussian's
    log-likelihood, which is convex in them, for the scales.

    Args:
        kind: A key of ``nelbo.exit.NEIGHBOURS``.
        images: 8-bit images.
        x_hat: Their predictions.
    """
    x_hat = x_hat.double()
    residual = to_unit(images).double() - x_hat
    weights, scales = [], []
    for channel, known, context in situations(residual, x_hat, kind):
        w, v = _fit_channel(residual[:, channel].flatten(), known.flatten(0, 2), context.flatten(0, 2))
        weights.append(w.cpu())
        scales.append(v.cpu())
    widest = max(len(w) for w in weights)
    padded = torch.stack([torch.nn.functional.pad(w, (0, widest - len(w))) for w in weights])
    candidates = [Exit(kind, padded, torch.stack(scales), rounding) for rounding in _ROUNDINGS]
    return max(candidates, key=lambda exit: exit.log_likelihood(images, x_hat).sum().item())


def _fit_channel(
    target: Float[Tensor, " n"], known: Float[Tensor, "n f"], context: Float[Tensor, "n g"]
) -> tuple[Float[Tensor, " f"], Float[Tensor, " g"]]:
    scales = torch.zeros(context.shape[1], dtype=torch.float64, device=target.device)
    scales[0] = torch.log(target.square().mean() + MIN_STD**2)
    weights = torch.zeros(known.shape[1], dtype=torch.float64, device=target.device)
    for _ in range(_ROUNDS):
        precision = torch.exp(-context @ scales)
        weights = _least_squares(known, target, precision)
        scales = _fit_scales((target - known @ weights).square() + MIN_STD**2, context, scales)
    return weights, scales


def _least_squares(
    known: Float[Tensor, "n f"], target: Float[Tensor, " n"], precision: Float[Tensor, " n"]
) -> Float[Tensor, " f"]:
    weighted = known * precision[:, None]
    gram = known.T @ weighted
    ridge = _RIDGE * gram.diagonal().mean().clamp(min=1e-30) if len(gram) else 0.0
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), weighted.T @ target)


def _fit_scales(
    square: Float[Tensor, " n"], context: Float[Tensor, "n g"], scales: Float[Tensor, " g"]
) -> Float[Tensor, " g"]:
    """Minimises the mean of v.g + square exp(-v.g) over v by Newton's method with halved steps where it overshoots."""
    ridge = _RIDGE * torch.eye(len(scales)).to(context)
    loss = _scale_loss(square, context, scales)
    for _ in range(_NEWTON_STEPS):
        ratio = square * torch.exp(-context @ scales)
        gradient = context.T @ (1 - ratio) / len(square)
        hessian = context.T @ (context * ratio[:, None]) / len(square)
        direction = torch.linalg.solve(hessian + ridge, gradient)
        step = 1.0
        while _scale_loss(square, context, scales - step * direction) > loss and step > 1e-3:
            step /= 2
        scales = scales - step * direction
        loss = _scale_loss(square, context, scales)
    return scales


def _scale_loss(square: Float[Tensor, " n"], context: Float[Tensor, "n g"], scales: Float[Tensor, " g"]) -> float:
    log_variance = context @ scales
    return (log_variance + square * torch.exp(-log_variance)).mean().item()
