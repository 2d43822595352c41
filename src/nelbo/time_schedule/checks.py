"""Whether the numbers in the file of a time schedule or an error table can be what they are called, asked once at load.

Every check raises ValueError with what is wrong; who reads the file says which file it is.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nelbo.diffusion.residual_decoder import NEIGHBOURS, ResidualDecoder
from nelbo.diffusion.reverse import KERNELS
from nelbo.diffusion.spectral_basis import Basis, plain_basis
from nelbo.diffusion.variance_histogram import N_BINS

if TYPE_CHECKING:
    from nelbo.time_schedule.error_table import ErrorTable
    from nelbo.time_schedule.schedule import TimeSchedule

_LARGEST_GAMMA = 200.0
_LARGEST_SIDE = 1 << 16


def check_table(table: "ErrorTable") -> None:
    """Raises ValueError unless shapes, ranges and counts of an error table agree."""
    shape, n, gamma_0 = table.subject.image_shape, len(table.gammas), table.subject.gamma_0
    _check_shape(shape)
    _check_gammas(table.gammas)
    _expect(gamma_0 is None or (isinstance(gamma_0, float) and gamma_0 < table.gammas[0].item()), "gamma_0 is no end")
    _expect(table.n_images.dtype == torch.int64 and tuple(table.n_images.shape) == (n,), "n_images are no n counts")
    _expect(bool((table.n_images >= 0).all()) and table.n_decoded >= 0, "a count of images is negative")
    _check_numbers("square", table.square, (2,), 0.0)
    _check_numbers("decoder", table.decoder, (n if gamma_0 is None else 1, 2))
    _check_numbers("error", table.error, (n, 2), 0.0)
    n_pairs = shape[0] * (shape[0] + 1) // 2
    _check_numbers("covariance", table.covariance, (n, n_pairs, *plain_basis(shape).block))
    if table.ranges is not None:
        _check_numbers("ranges", table.ranges, (n, N_BINS, 4))
    if table.timesteps is not None:
        whole = table.timesteps.dtype == torch.int64 and tuple(table.timesteps.shape) == (n,)
        _expect(whole and table.subject.discrete, "timesteps are no n whole numbers of a discrete-time model")
        _expect(
            bool((table.timesteps.diff() > 0).all() and table.timesteps[0] == 0), "timesteps do not increase from 0"
        )
    levels = table.exit_levels
    _expect(levels.dtype == torch.int64 and levels.ndim == 1, "exit_levels are no positions")
    _expect(bool((levels.diff() > 0).all() and ((levels >= 0) & (levels < n)).all()), "exit_levels are out of range")
    for kind, exits in table.exits.items():
        _expect(len(exits) <= len(levels), f"there are more {kind} exits than levels of them")
        _check_numbers(f"{kind}.losses", table.exit_losses[kind], (len(levels), 2))
        for exit in exits:
            _check_exit(exit, shape[0])


def check_schedule(schedule: "TimeSchedule") -> None:
    """Raises ValueError unless shapes, ranges and counts of a time schedule agree, for every step's kernel too."""
    _check_shape(schedule.image_shape)
    _check_gammas(schedule.gammas)
    _expect(schedule.reverse in KERNELS, f"there is no reverse kernel {str(schedule.reverse)[:40]!r}")
    n, steps = len(schedule.gammas), schedule.timesteps
    allowed = (n,) if schedule.exit is not None else (n - 1, n)
    _expect(type(schedule.n_steps) is int and schedule.n_steps in allowed and schedule.n_steps > 0, "n_steps is wrong")
    if steps is not None:
        whole = all(type(step) is int and step >= 0 for step in steps)
        _expect(whole and len(steps) == n and list(steps) == sorted(set(steps)), "timesteps do not increase")
    _expect(isinstance(schedule.fingerprint, str), "the fingerprint is no text")
    if schedule.exit is not None:
        _check_exit(schedule.exit, schedule.image_shape[0])
    if schedule.basis is not None:
        _check_basis(schedule.basis, schedule.image_shape)
    for name, tensor in schedule.tensors.items():
        _expect(tensor.ndim > 0 and len(tensor) == n - 1, f"{name} is no row for each step")
        _check_numbers(name, tensor, tuple(tensor.shape))
    for step in range(n - 1):
        _check_kernel(schedule, step)
    prediction = schedule.prediction
    _expect(prediction is None or all(isinstance(v, float) for v in vars(prediction).values()), "no prediction")


def _check_kernel(schedule: "TimeSchedule", step: int) -> None:
    kernel = schedule.kernel(step)
    shapes = {name: tensor.shape for name, tensor in kernel.tensors().items()}
    expected = {name: tensor.shape[1:] for name, tensor in schedule.tensors.items()}
    _expect(shapes == expected, f"{schedule.reverse} has other tensors")
    _expect((kernel.basis is None) == (schedule.basis is None), f"{schedule.reverse} has no such basis")
    if kernel.needs_range:
        return
    log_ratio = kernel.log_ratio(schedule.gammas[step : step + 1], schedule.gammas[step + 1 : step + 2], None)
    whole = (1, *schedule.image_shape)
    _expect(log_ratio.numel() == 1 or tuple(log_ratio.shape) == whole, f"the variances of step {step} fit no image")
    _expect(bool(torch.isfinite(log_ratio).all()), f"the variances of step {step} are no numbers")


def _check_exit(exit: ResidualDecoder, n_channels: int) -> None:
    _expect(exit.kind in NEIGHBOURS, f"there is no exit {str(exit.kind)[:40]!r}")
    n_neighbours = len(NEIGHBOURS[exit.kind])
    _check_numbers("weights", exit.weights, (n_channels, n_neighbours * n_channels + n_channels - 1))
    _check_numbers("scales", exit.scales, (n_channels, 4 if n_neighbours else 1))
    _expect(isinstance(exit.rounding, float) and 0 <= exit.rounding <= 1, "an exit's rounding is not within 0 and 1")


def _check_basis(basis: Basis, image_shape: tuple[int, int, int]) -> None:
    channels, *sides = image_shape
    _check_numbers("basis.colours", basis.colours, (channels, channels))
    square = basis.colours.double() @ basis.colours.double().T
    _expect(bool((square - torch.eye(channels).double()).abs().max() < 1e-6), "the colour axes are not orthonormal")
    _expect(len(basis.block) == 2 and all(type(side) is int and side > 0 for side in basis.block), "block is no size")
    _expect(all(side % each == 0 for side, each in zip(sides, basis.block, strict=True)), "block divides no image")


def _check_shape(shape: Sequence[object]) -> None:
    whole = all(type(side) is int and 0 < side <= _LARGEST_SIDE for side in shape)
    _expect(len(shape) == 3 and whole, "image_shape is no shape of images")


def _check_gammas(gammas: Tensor) -> None:
    _expect(gammas.ndim == 1 and len(gammas) > 0, "gammas are no list of numbers")
    _check_numbers("gammas", gammas, (len(gammas),), -_LARGEST_GAMMA)
    increase = bool((gammas.diff() > 0).all())
    _expect(
        gammas.dtype == torch.float64 and increase and gammas[-1].item() <= _LARGEST_GAMMA, "gammas do not increase"
    )


def _check_numbers(name: str, tensor: Tensor, shape: tuple[int, ...], lowest: float = -math.inf) -> None:
    _expect(tuple(tensor.shape) == shape, f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
    _expect(tensor.is_floating_point() and bool(torch.isfinite(tensor).all()), f"{name} holds what is no finite number")
    _expect(bool((tensor >= lowest).all()), f"{name} holds a number below {lowest:g}")


def _expect(is_so: bool, problem: str) -> None:
    if not is_so:
        raise ValueError(problem)
