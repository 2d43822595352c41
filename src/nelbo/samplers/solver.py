r"""What every solver of a few steps is: one class, which goes from a noisy latent to an image through given levels.

All are written for a model's prediction of the image, :math:`\hat x(z; \gamma)`, and for

.. math:: \lambda = -\gamma / 2 = \log(\alpha / \sigma), \qquad h = \lambda_s - \lambda_t > 0

for a step from level t down to a cleaner level s. The network is called at every level that is given, the last call's
prediction is the image, so K levels are K calls unless a solver says otherwise.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.diffusion.gaussian import alpha, sigma
from nelbo.errors import NelboError

Predict = Callable[[Float[Tensor, "b c h w"], float], Float[Tensor, "b c h w"]]
Noise = Callable[[], Float[Tensor, "b c h w"]]


@dataclass(frozen=True)
class Level:
    """A noise level in the three ways that solvers write it.

    Attributes:
        gamma: Negative log-SNR.
    """

    gamma: float

    @property
    def alpha(self) -> float:
        """The signal's scale."""
        return alpha(torch.tensor(self.gamma, dtype=torch.float64)).item()

    @property
    def sigma(self) -> float:
        """The noise's scale."""
        return sigma(torch.tensor(self.gamma, dtype=torch.float64)).item()

    @property
    def half_log_snr(self) -> float:
        r"""The solvers' time, :math:`\lambda = \log(\alpha / \sigma)`."""
        return -0.5 * self.gamma


class Solver(ABC):
    """A way from a latent to an image in few network calls.

    Attributes:
        name: Its name among ``SOLVERS``.
    """

    name: ClassVar[str]

    @abstractmethod
    def solve(
        self, predict: Predict, z: Float[Tensor, "b c h w"], gammas: Sequence[float], noise: Noise
    ) -> Float[Tensor, "b c h w"]:
        r"""Returns the predicted image at the end of the way.

        Args:
            predict: The network's image, :math:`\hat x(z; \gamma)`.
            z: Latents at the first, noisiest level.
            gammas: The levels, decreasing.
            noise: Draws standard normal noise.
        """

    def n_levels(self, n_calls: int) -> int:
        """Returns how many levels so many network calls pay for.

        Raises:
            NelboError: If the solver cannot make so many calls.
        """
        if n_calls < 1:
            raise NelboError(f"a sampler makes at least 1 network call, got {n_calls}")
        return n_calls

    def check(self, is_discrete: bool) -> None:  # noqa: B027 (most solvers have nothing to check)
        """Raises NelboError if the solver needs levels that a discrete-time model does not have."""
