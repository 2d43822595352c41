r"""Freezing: from a trained model to one in integers, with proofs, known answers and a measured price.

A frozen network's :math:`\hat\epsilon` differs a little from the trained one's. By the continuous-time bound (eq. 17
of the paper) an error independent of the rest costs

.. math:: \tfrac12 (\gamma_1 - \gamma_0) / \ln 2 \cdot \mathbb E (\hat\epsilon' - \hat\epsilon)^2 \text{ bits per
          dimension.}

References:
    Variational Diffusion Models (Kingma et al., 2021), section 4. https://arxiv.org/abs/2107.00630
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nelbo.codec.exact.floating import run_float
from nelbo.codec.exact.formats import EXECUTOR_VERSION, LATENT_BITS, RESULT_BITS
from nelbo.codec.exact.frozen import Cost, FrozenModel, Header, digest
from nelbo.codec.exact.program import Program
from nelbo.codec.exact.quantise import Quantiser
from nelbo.codec.exact.translate import Tensors, translate
from nelbo.decoder import to_unit
from nelbo.errors import NelboError
from nelbo.gaussian import diffuse
from nelbo.model import VDM, DiffusionModel
from nelbo.randomness import normals
from nelbo.sampling import sample

MAX_COST_BPD = 0.001
N_GAMMAS = 24  # Gammas of the calibration, and others, between them, of the measurement.
_LIMBS = (2, 3, 4)  # Fewer are faster: the first that is cheap enough is taken.
_KNOWN_TIMES = (0.0, 0.4, 1.0)


class _Ranges:
    """The largest sizes and mean squares of everything that is quantised."""

    def __init__(self) -> None:
        self.largest: dict[str, float] = {}
        self.squares: dict[str, float] = {}

    def __call__(self, name: str, value: Tensor) -> None:
        self.largest[name] = max(self.largest.get(name, 0.0), float(value.abs().max()))
        self.squares[name] = max(self.squares.get(name, 0.0), float(value.square().mean()))


@torch.no_grad()
def freeze(
    model: DiffusionModel,
    images: UInt8[Tensor, "n c h w"] | None = None,
    data: str = "images",
    seed: int = 0,
    max_cost_bpd: float = MAX_COST_BPD,
    progress: Callable[[int], object] = lambda n: None,
) -> FrozenModel:
    """Returns a model in integers.

    Half of the images set the limits, the other half measures the price.

    Args:
        model: The model.
        images: At least two images like those that it was trained on, never of a test set; None draws them from it.
        data: What the images are, for the record.
        seed: The noise of calibration and measurement.
        max_cost_bpd: The price above which the model is refused.
        progress: Called with 1 after each of ``3 N_GAMMAS`` steps or more.

    Raises:
        NelboError: If the network has an operation that is not covered, an accumulator could not be proved exact, or
            the price is too high.
    """
    if images is None:
        images, data = sample(model, 32, range(16), 16, "float32"), "samples of the model"
    model.check_images(images)
    if len(images) < 2:
        raise NelboError(f"freezing takes at least 2 images, one to calibrate and one to measure, got {len(images)}")
    program, tensors = translate(model.eval())
    x = to_unit(images.cpu())
    ranges = _calibrate(model, program, tensors, x[::2], seed, progress)
    problem = NelboError("freeze: no number of digits was tried")
    for n_limbs in _LIMBS:
        try:
            quantised = Quantiser(program, tensors, ranges.largest, ranges.squares, n_limbs).run()
        except NelboError as error:  # More digits leave more room.
            problem = error
            continue
        frozen = _assemble(model, *quantised, n_limbs, None)
        cost = _measure(model, frozen, x[1::2], seed, data, progress)
        if max(cost.bpd, cost.difference_bpd - 3 * cost.standard_error) <= max_cost_bpd:
            return _assemble(model, *quantised, n_limbs, cost, _known_answers(model, frozen, x[1:2], seed))
        problem = NelboError(f"freeze: integers would cost {cost.bpd:.5f} bits per dimension, over {max_cost_bpd:g}")
    raise problem
