r"""Rules that spread K noise levels between two ends, for samplers: noisiest first.

References:
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), eq. 5.
    https://arxiv.org/abs/2206.00364
    Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), section 3.2. https://arxiv.org/abs/2102.09672
"""

import math
from collections.abc import Callable, Sequence

from nelbo.errors import NelboError

_RHO = 7.0


def even_in_gamma(low: float, high: float, fraction: float) -> float:
    """Returns the level at a fraction of the way from the noisiest to the cleanest, in gamma itself."""
    return high + (low - high) * fraction


def edm(low: float, high: float, fraction: float) -> float:
    r"""Returns EDM's level, even in :math:`\tilde\sigma^{1/\rho}` with :math:`\tilde\sigma = e^{\gamma/2}`, rho = 7."""
    ends = (math.exp(0.5 * end / _RHO) for end in (high, low))
    first, last = ends
    return 2 * _RHO * math.log(first + (last - first) * fraction)


def cosine(low: float, high: float, fraction: float) -> float:
    r"""Returns the level of a cosine schedule, even in the angle :math:`\arctan(\sigma / \alpha)`."""
    first, last = (math.atan(math.exp(0.5 * end)) for end in (high, low))
    return 2 * math.log(math.tan(first + (last - first) * fraction))


RULES: dict[str, Callable[[float, float, float], float]] = {
    "edm": edm,
    "even-in-gamma": even_in_gamma,
    "cosine": cosine,
}


def spread(rule: str, n_levels: int, low: float, high: float) -> list[float]:
    """Returns decreasing levels between two ends, both included; a single one is the noisiest.

    Args:
        rule: A key of ``RULES``.
        n_levels: How many.
        low: The cleanest gamma.
        high: The noisiest gamma.

    Raises:
        NelboError: If the rule is unknown or the ends are in the wrong order.

    Example:
        >>> spread("even-in-gamma", 3, -10.0, 2.0)
        [2.0, -4.0, -10.0]
    """
    if rule not in RULES:
        raise NelboError(f"no rule {rule!r} for noise levels; there are {', '.join(RULES)}")
    if not low < high:
        raise NelboError(f"noise levels go from a noisier gamma down to a cleaner one, got {high} and {low}")
    last = max(1, n_levels - 1)
    return [RULES[rule](low, high, i / last) for i in range(n_levels)]


def nearest(gammas: Sequence[float], own: Sequence[float]) -> list[int]:
    """Returns the positions among a discrete-time model's own increasing levels nearest to some, all different.

    Raises:
        NelboError: If there are fewer of its own.
    """
    if len(gammas) > len(own):
        raise NelboError(f"the model has {len(own)} noise levels, so a sampler cannot stop at {len(gammas)} of them")
    chosen: list[int] = []
    for i, gamma in enumerate(gammas):
        top = chosen[-1] - 1 if chosen else len(own) - 1
        best = min(range(len(own)), key=lambda k: abs(own[k] - gamma))
        chosen.append(max(min(best, top), len(gammas) - 1 - i))
    return chosen
