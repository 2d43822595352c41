"""Making the plan of a time schedule, in float64, once and by the encoder alone."""

import math

import numpy as np
import torch
from jaxtyping import Float64, Int64

from nelbo.ans.tables import rate_integers, sharpness_integers
from nelbo.codec.integer_basis import fixed_axes
from nelbo.codec.plan import COEFFICIENT_BITS, GAUSSIAN, NETWORK, NO_NETWORK, RATIO_BITS, SOFTMAX, STEP_BITS, Plan
from nelbo.codec.plan_store import EMBEDDED, StoredPlan
from nelbo.codec.residual_loops import PREDICTION_BITS, WEIGHT_BITS
from nelbo.diffusion.decoder import DiscretisedGaussian, Softmax
from nelbo.diffusion.gaussian import alpha, sigma
from nelbo.diffusion.residual_decoder import NEIGHBOURS, ResidualDecoder
from nelbo.diffusion.reverse import KERNELS
from nelbo.errors import NelboError
from nelbo.integer.arithmetic import RESULT_BITS
from nelbo.models.interface import DiffusionModel
from nelbo.runtime.decimals import LOG_BITS
from nelbo.time_schedule.schedule import TimeSchedule

KAPPA = 0.5
_GREYS = 128  # Grey levels for one unit of x.
_X_BITS = COEFFICIENT_BITS - RESULT_BITS
_MAX_RATIO = 255


def embedded_plan(model: DiffusionModel, schedule: TimeSchedule, kappa: float = KAPPA) -> StoredPlan:
    """Returns the plan of a schedule, to be stored in the archive itself.

    Raises:
        NelboError: If the codec cannot code along this schedule.
    """
    plan = make_plan(model, schedule, kappa)
    gammas = tuple(schedule.gammas.double().tolist())
    return StoredPlan(plan, gammas, schedule.reverse, kappa, EMBEDDED + plan.pack())


def make_plan(model: DiffusionModel, schedule: TimeSchedule, kappa: float = KAPPA) -> Plan:
    """Returns the plan of a chain.

    Args:
        model: The model, for its own decoder.
        schedule: The time schedule.
        kappa: The lattice step over the smaller of a latent's standard deviations.

    Raises:
        NelboError: If the codec has no such kernel or decoder, or the steps are too long or short for its tables.
    """
    if KERNELS[schedule.reverse].needs_range:
        known = ", ".join(name for name, kernel in KERNELS.items() if not kernel.needs_range)
        raise NelboError(
            f"the codec cannot code with the reverse kernel {schedule.reverse!r}, whose variances are the network's: "
            f"take {known}"
        )
    if schedule.entry is not None:
        raise NelboError(
            "the codec does not code chains that enter with a Gaussian of the images: "
            "find a schedule without, by `nelbo schedule --entry normal`"
        )
    gammas = schedule.gammas.double()
    signal, noise = alpha(gammas).numpy(), sigma(gammas).numpy()
    c = -torch.expm1(gammas[:-1] - gammas[1:]).numpy()
    steps = kappa * noise * np.sqrt(np.minimum(np.append(1.0, c), np.append(c, 1.0)))
    q_std = noise * np.sqrt(np.append(1.0, c))
    p_std = np.append(noise[:-1] * np.sqrt(c), 1.0)
    ratios, factors = _ratios(schedule)
    p_std[:-1] *= factors
    weight = signal[:-1] / signal[1:] * np.exp((gammas[:-1] - gammas[1:]).numpy())
    return Plan(
        steps=_fixed(steps, STEP_BITS),
        first=int(_fixed(signal[:1] / steps[:1], _X_BITS)[0]),
        q_rates=rate_integers(q_std / steps),
        up=_fixed(signal[1:] / signal[:-1] * steps[:-1] / steps[1:], COEFFICIENT_BITS),
        down=_fixed(weight * steps[1:] / steps[:-1], COEFFICIENT_BITS),
        down_x=_fixed(signal[:-1] * c / steps[:-1], _X_BITS),
        p_rates=rate_integers(p_std / steps),
        ratios=ratios,
        colours=fixed_axes(schedule.basis.colours).numpy() if schedule.basis and ratios.size else np.zeros(0, np.int64),
        **_exit(model, schedule),  # pyright: ignore[reportArgumentType]
    )


def _ratios(schedule: TimeSchedule) -> tuple[np.ndarray, Float64[np.ndarray, " n"]]:
    r"""Returns the standard deviations of each step over the posterior's, :math:`\sqrt R`.

    They are one factor a step, or the logarithms of one a coordinate of a block of the basis.
    """
    ends, n = schedule.gammas.double(), len(schedule.gammas) - 1
    if not n:
        return np.zeros(0, np.uint8), np.ones(0)
    logs = [schedule.kernel(i).log_ratio(ends[i : i + 1], ends[i + 1 : i + 2], None) for i in range(n)]
    if all(log.numel() == 1 for log in logs):
        return np.zeros(0, np.uint8), torch.exp(0.5 * torch.cat([log.flatten() for log in logs])).numpy()
    if schedule.basis is None:
        raise NelboError(f"the codec has no tables for {schedule.reverse!r}, a variance a pixel: take another kernel")
    height, width = schedule.basis.block
    block = torch.cat([log[..., :height, :width] for log in logs]).numpy() * (0.5 * 2**RATIO_BITS / math.log(2))
    return np.rint(np.clip(block, 0, _MAX_RATIO)).astype(np.uint8), np.ones(n)


def _exit(model: DiffusionModel, schedule: TimeSchedule) -> dict[str, object]:
    n_channels, none = model.image_shape[0], np.zeros(0, np.int64)
    if schedule.exit is not None:
        return {"exit": NETWORK, "own": (0, 0, 0), **_network_exit(schedule.exit, n_channels)}
    if model.exit_std is not None:
        raise NelboError("the codec needs a schedule with a channels or causal exit for a model of discrete steps")
    shapes = {"offsets": none.reshape(0, 2), "weights": none.reshape(n_channels, 0), "scales": none.reshape(0, 4)}
    gamma = schedule.gammas[:1].double()
    std = np.exp(0.5 * gamma.numpy()) * _GREYS
    slope = int(_fixed(_GREYS / alpha(gamma).numpy(), 16)[0])
    if isinstance(model.decoder, Softmax):
        return {"exit": NO_NETWORK, "own": (SOFTMAX, slope, int(sharpness_integers(std)[0])), "rounding": 0, **shapes}
    if isinstance(model.decoder, DiscretisedGaussian):
        return {"exit": NO_NETWORK, "own": (GAUSSIAN, slope, int(rate_integers(std)[0])), "rounding": 0, **shapes}
    raise NelboError(f"the codec has no decoder {type(model.decoder).__name__}: use a channels or causal exit")


def _network_exit(exit: ResidualDecoder, n_channels: int) -> dict[str, object]:
    """Returns weights and scales in integers; the logarithm of a sum of squares stands for that of their mean."""
    offsets = NEIGHBOURS[exit.kind]
    unit = math.log2(_GREYS**2) + 2 * PREDICTION_BITS  # From x squared to 2^-26 of a squared grey level, in base 2.
    scales = np.zeros((n_channels, 4))
    for channel, row in enumerate(exit.scales.double().numpy()):
        counts = [len(offsets) * n_channels, channel, 4]
        used = [float(v) if n else 0.0 for v, n in zip(row[1:], counts, strict=False)]
        below = sum(v * (math.log2(n) + unit) for v, n in zip(used, counts, strict=False) if n)
        scales[channel, 0] = row[0] / math.log(2) + unit - below
        scales[channel, 1 : 1 + len(used)] = used
    fixed = _fixed(scales, LOG_BITS)
    fixed[:, 0] = _fixed(scales[:, 0], 2 * LOG_BITS)
    return {
        "offsets": np.array(offsets, np.int64).reshape(-1, 2),
        "weights": _fixed(exit.weights.double().numpy(), WEIGHT_BITS),
        "scales": fixed,
        "rounding": round(exit.rounding * 2 ** (2 * PREDICTION_BITS) / 12),
    }


def _fixed(values: Float64[np.ndarray, "..."], bits: int) -> Int64[np.ndarray, "..."]:
    return np.rint(values * 2.0**bits).astype(np.int64)
