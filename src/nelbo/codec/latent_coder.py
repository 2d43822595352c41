r"""Bits-back coding of images over a chain of latents, in Bit-Swap order.

With the forward factorisation :math:`q(z_0 | x) \prod_i q(z_{i+1} | z_i)` every latent is pushed right after the next
one was popped, so that a chain borrows few bits:

===========================================  ===========================================
encode                                       decode
===========================================  ===========================================
pop  :math:`z_0 \sim q(z_0 | x)`             pop  :math:`z_m \sim p(z_m)`
push :math:`x \sim p(x | z_0)`               for i = m - 1, ..., 0:
for i = 0, ..., m - 1:                       - pop  :math:`z_i \sim p(z_i | z_{i+1})`
- pop  :math:`z_{i+1} \sim q(z_{i+1} | z_i)` - push :math:`z_{i+1} \sim q(z_{i+1} | z_i)`
- push :math:`z_i \sim p(z_i | z_{i+1})`     pop  :math:`x \sim p(x | z_0)`
push :math:`z_m \sim p(z_m)`                 push :math:`z_0 \sim q(z_0 | x)`
===========================================  ===========================================

Pops of q and pushes of p go through the two heads of a message (:mod:`nelbo.ans.message`). Between two symbols there
are integers only: the plan's, the frozen network's, the fixed basis'.

References:
    Bit-Swap: Recursive Bits-Back Coding (Kingma, Abbeel & Ho, 2019). https://arxiv.org/abs/1905.06845
    Practical lossless compression with latent variables using bits back coding (Townsend et al., 2019).
    https://arxiv.org/abs/1901.04866
"""

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from nelbo.ans.distributions import gaussian
from nelbo.ans.lanes import Coding, Lanes
from nelbo.ans.message import Head
from nelbo.ans.tables import MEAN_BITS, MIN_RATE, Tables, build_tables
from nelbo.codec.integer_basis import FixedBasis
from nelbo.codec.plan import COEFFICIENT_BITS, RATIO_BITS, STEP_BITS, Plan
from nelbo.codec.residual_coder import FixedExit
from nelbo.integer.arithmetic import LATENT_BITS, RESULT_BITS
from nelbo.integer.frozen_model import FrozenModel
from nelbo.integer.frozen_model import Header as FrozenHeader
from nelbo.runtime.decimals import GRID_BITS, POWER_BITS, power_table

_MAX_POINT = 1 << 22  # Lattice points count as no further out than this in what depends on them.
_MEAN_SHIFT = COEFFICIENT_BITS - MEAN_BITS

Points = Int64[np.ndarray, "b d"]


class ChainCoder:
    """Codes images on lanes.

    Args:
        network: The frozen model.
        plan: The integers of the chain.
        gammas: Its levels.
        tables: The coder's tables.
    """

    def __init__(self, network: FrozenModel, plan: Plan, gammas: tuple[float, ...], tables: Tables) -> None:
        self._network, self._plan, self._gammas, self._tables = network, plan, gammas, tables
        self._exit = FixedExit(plan, tables)
        self._shape = network.image_shape
        self._basis = FixedBasis(torch.from_numpy(plan.colours), plan.block) if plan.colours.size else None
        self._p_rates = [self._rates(level) for level in range(len(gammas))]

    def portable(self) -> tuple[FrozenHeader, dict[str, np.ndarray], Plan, tuple[float, ...]]:
        """Returns what another process needs to code the same."""
        tensors = {name: tensor.cpu().numpy() for name, tensor in self._network.tensors.items()}
        return self._network.header, tensors, self._plan, self._gammas

    @classmethod
    def of_portable(cls, portable: tuple[FrozenHeader, dict[str, np.ndarray], Plan, tuple[float, ...]]) -> "ChainCoder":
        """Returns the coder that :meth:`portable` was asked of."""
        header, arrays, plan, gammas = portable
        network = FrozenModel(header, {name: torch.from_numpy(array) for name, array in arrays.items()})
        return cls(network, plan, gammas, build_tables())

    def encode(self, lanes: Lanes, images: UInt8[np.ndarray, "b c h w"]) -> None:
        """Pushes an image on each lane."""
        last = len(self._gammas) - 1
        z = lanes.pop(Head.Q, self._q_first(images), self._size)
        self._exit.push(lanes, self._exit_view(z), images.transpose(0, 2, 3, 1))
        for level in range(last):
            z_t = lanes.pop(Head.Q, self._q(level, z), self._size)
            lanes.push(Head.P, self._p(level, z_t), z)
            z = z_t
        lanes.push(Head.P, self._prior(), z)

    def decode(self, lanes: Lanes) -> UInt8[np.ndarray, "b c h w"]:
        """Pops an image from each lane, the inverse of :meth:`encode`."""
        last = len(self._gammas) - 1
        z = lanes.pop(Head.P, self._prior(), self._size)
        for level in reversed(range(last)):
            z_s = lanes.pop(Head.P, self._p(level, z), self._size)
            lanes.push(Head.Q, self._q(level, z_s), z)
            z = z_s
        images = np.ascontiguousarray(self._exit.pop(lanes, self._exit_view(z)).transpose(0, 3, 1, 2))
        lanes.push(Head.Q, self._q_first(images), z)
        return images

    # Distributions

    def _q_first(self, images: UInt8[np.ndarray, "b c h w"]) -> Coding:
        """q(z_0 | x)."""
        unit = ((2 * images.astype(np.int64) - 255) << RESULT_BITS) >> 8
        mean = _rounded_shift(self._coordinates(unit) * self._plan.first, _MEAN_SHIFT)
        return self._gaussian(mean, np.full(self._size, self._plan.q_rates[0]), is_drawn=True)

    def _q(self, level: int, z_s: Points) -> Coding:
        """q(z_t | z_s) of the level above."""
        mean = _rounded_shift(_near(z_s) * self._plan.up[level], _MEAN_SHIFT)
        return self._gaussian(mean, np.full(self._size, self._plan.q_rates[level + 1]), is_drawn=True)

    def _p(self, level: int, z_t: Points) -> Coding:
        """p(z_s | z_t) of a level, given the one above."""
        x_hat = self._coordinates(self._prediction(level + 1, z_t))
        mean = _rounded_shift(_near(z_t) * self._plan.down[level] + x_hat * self._plan.down_x[level], _MEAN_SHIFT)
        return self._gaussian(mean, self._p_rates[level])

    def _prior(self) -> Coding:
        """p(z_m)."""
        return self._gaussian(np.zeros((1, self._size), np.int64), self._p_rates[-1])

    def _gaussian(self, mean: Points, rates: Int64[np.ndarray, " d"], is_drawn: bool = False) -> Coding:
        """Returns Gaussians on the lattice; what is drawn stays near its mean, for an escape spoils a whole image."""
        return lambda lane: gaussian(self._tables, mean[min(lane, len(mean) - 1)], rates, not is_drawn)

    def _rates(self, level: int) -> Int64[np.ndarray, " d"]:
        """Returns the rates of p at a level, one a coordinate."""
        base = np.full(self._shape, self._plan.p_rates[level])
        if not self._plan.ratios.size or level == len(self._gammas) - 1:
            return base.ravel()
        repeats = (1, self._shape[1] // self._plan.block[0], self._shape[2] // self._plan.block[1])
        log = np.tile(self._plan.ratios[level], repeats)
        turned = -log.astype(np.int64)  # 2^-log: its whole part rounds down, so that the rest is positive.
        power = power_table()[(turned & ((1 << RATIO_BITS) - 1)) << GRID_BITS - RATIO_BITS]
        return np.maximum((base * power) >> (POWER_BITS - (turned >> RATIO_BITS)), MIN_RATE).ravel()

    # Latents as pixels

    @property
    def _size(self) -> int:
        return int(np.prod(self._shape))

    def _exit_view(self, z: Points) -> Int64[np.ndarray, "b h w c"]:
        """Returns what the exit reads of the cleanest latent: its pixels, or the network's prediction from it."""
        view = self._prediction(0, z) if self._exit.reads_network else self._pixels(0, z)
        return np.ascontiguousarray(view.transpose(0, 2, 3, 1))

    def _prediction(self, level: int, z: Points) -> Int64[np.ndarray, "b c h w"]:
        """Returns the network's prediction of the image, in units of 2^-20."""
        latents = _rounded_shift(self._pixels(level, z), RESULT_BITS - LATENT_BITS)
        prediction = self._network.predict(torch.from_numpy(latents), self._gammas[level])
        return prediction.x_hat.cpu().long().numpy()

    def _pixels(self, level: int, z: Points) -> Int64[np.ndarray, "b c h w"]:
        """Returns latents as images, in units of 2^-20."""
        scaled = _rounded_shift(_near(z) * self._plan.steps[level], STEP_BITS - RESULT_BITS)
        images = scaled.reshape(-1, *self._shape)
        return images if self._basis is None else self._basis.pixels(torch.from_numpy(images)).numpy()

    def _coordinates(self, images: Int64[np.ndarray, "b c h w"]) -> Points:
        """Returns images in the chain's basis, in units of 2^-20, the inverse of :meth:`_pixels`."""
        images = images if self._basis is None else self._basis.coordinates(torch.from_numpy(images)).numpy()
        return images.reshape(len(images), -1)


def _near(z: Points) -> Points:
    return np.clip(z, -_MAX_POINT, _MAX_POINT)


def _rounded_shift(value: Int64[np.ndarray, "..."], bits: int) -> Int64[np.ndarray, "..."]:
    return (value + (1 << (bits - 1))) >> bits
