r"""Where to look: noise levels drawn in proportion to the loss they have shown, so that its estimate is less noisy.

.. math:: p(\gamma) \propto \mathbb E\bigl[\tfrac12 w(\gamma) \|\epsilon - \hat\epsilon\|^2\bigr], \qquad
       \mathcal L_w = \mathbb E_{\gamma \sim p}\Bigl[\frac{w(\gamma)}{2 p(\gamma)} \|\epsilon - \hat\epsilon\|^2\Bigr]

The density is constant on each of a number of bins between the ends of the model's noise schedule. Each bin's loss is a
moving average over the training steps that visited it. Whatever the density, the estimate's expectation is the same:
it changes how noisy training is, not what it minimises. A tenth of the draws stays spread evenly, so that no bin is
forgotten, and so no weight 1/p exceeds ten times that of even draws.

References:
    Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation (Kingma & Gao, 2023), section 3.3 and
    appendix F ("adaptive noise schedules"). https://arxiv.org/abs/2303.00848
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nelbo.runtime.processes import World

N_BINS, DECAY, EVEN_SHARE = 100, 0.99, 0.1


class GammaImportance(nn.Module):
    """A density of gamma that follows the loss, constant on each bin.

    Args:
        gamma_0: The cleanest noise level.
        gamma_1: The noisiest.
        n_bins: Number of bins, all of one width.
    """

    losses: Tensor
    seen: Tensor
    pending: Tensor

    def __init__(self, gamma_0: float, gamma_1: float, n_bins: int = N_BINS) -> None:
        super().__init__()
        self.gamma_0, self.width = gamma_0, (gamma_1 - gamma_0) / n_bins
        self.register_buffer("losses", torch.zeros(n_bins, dtype=torch.float64))  # decayed sums of mean losses ...
        self.register_buffer("seen", torch.zeros(n_bins, dtype=torch.float64))  # ... and of the visits behind them
        self.register_buffer("pending", torch.zeros(2, n_bins, dtype=torch.float64), persistent=False)

    def masses(self) -> Float[Tensor, " n"]:
        """Returns the probability of each bin; a bin that was never visited counts as one of average loss."""
        seen = self.seen > 0
        means = self.losses / torch.where(seen, self.seen, 1.0)
        average = means.sum() / seen.sum().clamp(min=1)
        means = torch.where(seen, means, torch.where(average > 0, average, 1.0))
        return (1 - EVEN_SHARE) * means / means.sum() + EVEN_SHARE / len(means)

    def forward(self, u: Float[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Returns the gammas at which the distribution function is ``u`` in [0, 1), and the density there."""
        masses = self.masses()
        ends = masses.cumsum(0)
        which = torch.searchsorted(ends, u * ends[-1], right=True).clamp(max=len(masses) - 1)
        within = (u * ends[-1] - ends[which]) / masses[which] + 1
        return self.gamma_0 + (which + within.clamp(0, 1)) * self.width, masses[which] / self.width

    def note(self, gamma: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> None:
        """Keeps the losses seen at some gammas until :meth:`update`."""
        which = ((gamma - self.gamma_0) / self.width).long().clamp(0, len(self.losses) - 1)
        self.pending.index_add_(1, which, torch.stack([loss.double(), torch.ones_like(gamma)]))

    @torch.no_grad()
    def update(self, world: World) -> None:
        """Takes what every process noted since the last call into the moving averages, the same in each process."""
        totals, counts = world.total(self.pending)
        visited = counts > 0
        means = totals / torch.where(visited, counts, 1.0)
        self.losses.copy_(torch.where(visited, DECAY * self.losses + (1 - DECAY) * means, self.losses))
        self.seen.copy_(torch.where(visited, DECAY * self.seen + (1 - DECAY), self.seen))
        self.pending.zero_()
