"""The exit in exact arithmetic: push and pop an image given the latent's pixels or the network's prediction of it.

Images are coded pixel by pixel, channels innermost. The formulas are in
:mod:`nelbo.diffusion.residual_decoder` and :mod:`nelbo.diffusion.decoder`.
"""

import numpy as np
from jaxtyping import Int64, UInt8

from nelbo.ans.distributions import Codec, grey_gaussian, grey_softmax
from nelbo.ans.lanes import Lanes
from nelbo.ans.message import Head, Message, check_status
from nelbo.ans.tables import MAX_GREY_MEAN, MEAN_BITS, Tables
from nelbo.codec import residual_loops
from nelbo.codec.plan import NETWORK, SOFTMAX, Plan
from nelbo.codec.residual_loops import MAX_PREDICTION, PREDICTION_BITS
from nelbo.integer.arithmetic import RESULT_BITS
from nelbo.runtime.decimals import log_table, power_table

_GREY_BITS = 7  # A unit of x is 128 grey levels.
_X_SHIFT = RESULT_BITS - _GREY_BITS - PREDICTION_BITS


class FixedExit:
    """p(x | z) of a plan.

    Args:
        plan: The plan.
        tables: The tabulated functions.
    """

    def __init__(self, plan: Plan, tables: Tables) -> None:
        assert _X_SHIFT == 0, "a unit of 2^-20 of x is one of 2^-13 of a grey level"
        self.reads_network = plan.exit == NETWORK
        self._plan, self._tables = plan, tables
        self._parameters = (plan.offsets, plan.weights, plan.scales, plan.rounding, log_table(), power_table())

    def push(self, lanes: Lanes, known: Int64[np.ndarray, "b h w c"], images: UInt8[np.ndarray, "b h w c"]) -> None:
        """Pushes images.

        Args:
            lanes: One lane an image.
            known: What the exit reads, in units of 2^-20: the latents' pixels, or the predictions.
            images: The images.
        """
        symbols = images.reshape(len(images), -1).astype(np.int64)
        if self.reads_network:
            lanes.push(Head.P, lambda lane: self._known_codec(known[lane], images[lane]), symbols)
        else:
            lanes.push(Head.P, lambda lane: self._own_codec(known[lane]), symbols)

    def pop(self, lanes: Lanes, known: Int64[np.ndarray, "b h w c"]) -> UInt8[np.ndarray, "b h w c"]:
        """Pops images, the inverse of :meth:`push`."""
        if not self.reads_network:
            symbols = lanes.pop(Head.P, lambda lane: self._own_codec(known[lane]), known[0].size)
            return symbols.astype(np.uint8).reshape(known.shape)
        images = np.zeros(known.shape, np.uint8)
        for lane, message in enumerate(lanes.messages):
            lanes.attempt(lane, lambda lane=lane, message=message: self._pop(message, known[lane], images[lane]))
        return images

    def _own_codec(self, z: Int64[np.ndarray, "h w c"]) -> Codec:
        kind, slope, sharpness = self._plan.own
        middle = (1 << MEAN_BITS + _GREY_BITS) - (1 << MEAN_BITS - 1)
        mean = np.clip(((z.ravel() * slope) >> RESULT_BITS) + middle, -MAX_GREY_MEAN, MAX_GREY_MEAN)
        make = grey_softmax if kind == SOFTMAX else grey_gaussian
        return make(self._tables, mean, np.full(mean.shape, sharpness))

    def _known_codec(self, x_hat: Int64[np.ndarray, "h w c"], image: UInt8[np.ndarray, "h w c"]) -> Codec:
        """Returns the codec of an image that is known, whose means and rates are all at hand."""
        mean, rate = np.empty(image.size, np.int64), np.empty(image.size, np.int64)
        residual_loops.exit_parameters(image, _predictions(x_hat), *self._parameters, mean, rate)
        return grey_gaussian(self._tables, mean, rate)

    def _pop(self, message: Message, x_hat: Int64[np.ndarray, "h w c"], image: UInt8[np.ndarray, "h w c"]) -> None:
        tables = self._tables.cdf, self._tables.quantiles
        arguments = (int(Head.P), image, _predictions(x_hat), *self._parameters, *tables)
        check_status(residual_loops.pop_exit(message.state, message.buffer(0), *arguments))


def _predictions(x_hat: Int64[np.ndarray, "h w c"]) -> Int64[np.ndarray, "h w c"]:
    """Returns predictions in 2^-13 of a grey level: v = 128 x + 127.5."""
    middle = (1 << PREDICTION_BITS + _GREY_BITS) - (1 << PREDICTION_BITS - 1)
    return np.ascontiguousarray(np.clip(x_hat + middle, -MAX_PREDICTION, MAX_PREDICTION))
