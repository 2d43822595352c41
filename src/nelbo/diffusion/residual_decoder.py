r"""Exits: the probability :math:`p(x \mid z_t)` of an image given any latent, by which a chain may leave for the data.

At small noise a chain spends most of its steps on what little the latent leaves open. A single network call can do
the rest from any level: it gives :math:`\hat x(z_t)`, and what remains is the image's residual :math:`r = x - \hat x`,
coded pixel after pixel and channel after channel with a discretised Gaussian each,

.. math:: p(x \mid z_t) = \prod_i \mathrm{DG}\bigl(x_i;\ \hat x_i + w^\top f_i,\ \tau_i\bigr), \qquad
          \ln(\tau_i^2 + \tfrac{\kappa}{12 \cdot 128^2}) = v^\top g_i

where :math:`f_i` are residuals that are already known and :math:`g_i` says how busy the image is here:

========= ================================================ =======================================================
channels  the channels before this one at the same pixel   a constant
causal    those, and all channels of six earlier pixels    also the logs of the known residuals' mean squares and of
          (two left, two up, two diagonal)                 the squared differences of the x_hats around
========= ================================================ =======================================================

Weights and scales are fitted to residuals of a few images at each level; the decoder sees the same residuals as the
encoder, so both kinds are honest distributions of the image.

References:
    The autoregressive residual model is that of lossless image coding: TMW (Meyer & Tischer, 1997); here it starts
    from a denoiser's prediction instead of nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import pad

from nelbo.diffusion.decoder import HALF_STEP, discretised_gaussian, to_unit, to_values

NEIGHBOURS: dict[str, tuple[tuple[int, int], ...]] = {
    "channels": (),
    "causal": ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0)),
}
REACH = 2
QUIET = (HALF_STEP / 2) ** 2  # Squares below this are no sign of anything: a quarter of a grey level.
ROUNDING = (2 * HALF_STEP) ** 2 / 12  # The variance of rounding to a grey level.
MIN_STD = HALF_STEP / 16


@dataclass(frozen=True, eq=False)
class ResidualDecoder:
    """A decoder p(x | z_t) that reads the image's prediction x_hat(z_t).

    Attributes:
        kind: A key of ``NEIGHBOURS``.
        weights: w of each channel, float64, shape (c, f): of each neighbour's channels, then of the channels before.
        scales: v of each channel, float64, shape (c, g).
        rounding: kappa, between 0 and 1.
    """

    kind: str
    weights: Float[Tensor, "c f"]
    scales: Float[Tensor, "c g"]
    rounding: float

    def log_likelihood(self, images: UInt8[Tensor, "b c h w"], x_hat: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Returns log p(x | z_t) in nats per image, float64."""
        x, x_hat = to_unit(images).double(), x_hat.double()
        residual = x - x_hat
        log_likelihood = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for channel, known, context in contexts(residual, x_hat, self.kind):
            mean = x_hat[:, channel] + known @ self.weights[channel, : known.shape[-1]].to(x.device)
            std = self._std(context, channel)
            log_likelihood += discretised_gaussian(x[:, channel], mean, std).flatten(1).sum(1)
        return log_likelihood

    def sample(self, x_hat: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
        """Returns the image that standard normal noise picks from p(x | z_t), pixel after pixel."""
        x_hat = x_hat.double()
        c, h, w = x_hat.shape[1:]
        slope = _log_energy(_differences(x_hat))
        residual = torch.zeros_like(pad(x_hat, (REACH, REACH, REACH, 0)))
        for row in range(h):
            for column in range(w):
                for channel in range(c):
                    window = residual[..., row : row + REACH + 1, column : column + 2 * REACH + 1]
                    known = _known_at(window, channel, self.kind)
                    context = _context(known, slope[:, channel, row, column], channel, c, self.kind)
                    mean = x_hat[:, channel, row, column] + known @ self.weights[channel, : known.shape[-1]].to(known)
                    value = mean + self._std(context, channel) * noise[:, channel, row, column]
                    point = to_unit(to_values(value)).double()
                    residual[:, channel, row + REACH, column + REACH] = point - x_hat[:, channel, row, column]
        return to_values(x_hat + residual[..., REACH:, REACH:-REACH])

    def _std(self, context: Float[Tensor, "... g"], channel: int) -> Float[Tensor, "..."]:
        variance = torch.exp(context @ self.scales[channel].to(context.device))
        return torch.sqrt(torch.clamp(variance - self.rounding * ROUNDING, min=MIN_STD**2))


def contexts(
    residual: Float[Tensor, "b c h w"], x_hat: Float[Tensor, "b c h w"], kind: str
) -> Iterator[tuple[int, Float[Tensor, "b h w f"], Float[Tensor, "b h w g"]]]:
    """Yields each channel with, at each pixel, the residuals known before it and what they say of its scale."""
    n_channels, slope = residual.shape[1], _log_energy(_differences(x_hat))
    for channel in range(n_channels):
        known = _known(residual, channel, kind)
        yield channel, known, _context(known, slope[:, channel], channel, n_channels, kind)


def _known(residual: Float[Tensor, "b c h w"], channel: int, kind: str) -> Float[Tensor, "b h w f"]:
    """Returns the residuals known before a channel of each pixel; zero outside the image."""
    h, w = residual.shape[-2:]
    padded = pad(residual, (REACH, REACH, REACH, 0))
    around = [padded[:, :, REACH + dy : REACH + dy + h, REACH + dx : REACH + dx + w] for dy, dx in NEIGHBOURS[kind]]
    return torch.cat([*around, residual[:, :channel]], dim=1).movedim(1, -1)


def _known_at(window: Float[Tensor, "b c 3 5"], channel: int, kind: str) -> Float[Tensor, "b f"]:
    """Returns the same at one pixel, from the residuals of the window that ends in its row."""
    around = [window[:, :, REACH + dy, REACH + dx] for dy, dx in NEIGHBOURS[kind]]
    return torch.cat([*around, window[:, :channel, REACH, REACH]], dim=1)


def _context(
    known: Float[Tensor, "*n f"], slope: Float[Tensor, "*n"], channel: int, n_channels: int, kind: str
) -> Float[Tensor, "*n g"]:
    """Returns a constant and, for the causal kind, log energies: around, of the channels before, and of x_hat."""
    constant = torch.ones_like(slope)
    if not NEIGHBOURS[kind]:
        return constant[..., None]
    n_around = n_channels * len(NEIGHBOURS[kind])
    around = _log_energy(known[..., :n_around])
    before = _log_energy(known[..., n_around:]) if channel else torch.zeros_like(slope)
    return torch.stack([constant, around, before, slope], dim=-1)


def _differences(x_hat: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w 4"]:
    """Returns the differences to the four neighbours, zero outside the image."""
    edged = pad(x_hat, (1, 1, 1, 1), mode="replicate")
    h, w = x_hat.shape[-2:]
    shifted = [edged[..., 1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w] for dy, dx in ((0, -1), (0, 1), (-1, 0), (1, 0))]
    return torch.stack([neighbour - x_hat for neighbour in shifted], dim=-1)


def _log_energy(values: Float[Tensor, "*n k"]) -> Float[Tensor, "*n"]:
    return torch.log(values.square().mean(-1) + QUIET)


_ROUNDS = 3
_NEWTON_STEPS = 8
_ROUNDINGS = (0.0, 0.5, 1.0)
_RIDGE = 1e-6


def fit_exit(kind: str, images: UInt8[Tensor, "b c h w"], x_hat: Float[Tensor, "b c h w"]) -> ResidualDecoder:
    """Returns the exit of a kind that suits predictions of images, all at one noise level; it lives on the CPU.

    Weights and scales take turns: weighted least squares for the means, Newton's method on the Gaussian's
    log-likelihood, which is convex in them, for the scales.

    Args:
        kind: A key of ``nelbo.diffusion.residual_decoder.NEIGHBOURS``.
        images: 8-bit images.
        x_hat: Their predictions.
    """
    x_hat = x_hat.double()
    residual = to_unit(images).double() - x_hat
    weights, scales = [], []
    for channel, known, context in contexts(residual, x_hat, kind):
        w, v = _fit_channel(residual[:, channel].flatten(), known.flatten(0, 2), context.flatten(0, 2))
        weights.append(w.cpu())
        scales.append(v.cpu())
    widest = max(len(w) for w in weights)
    padded = torch.stack([torch.nn.functional.pad(w, (0, widest - len(w))) for w in weights])
    candidates = [ResidualDecoder(kind, padded, torch.stack(scales), rounding) for rounding in _ROUNDINGS]
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
