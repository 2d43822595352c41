"""The time schedule: the noise levels at which a K-step chain stops, and how it steps, enters and leaves."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from nelbo.diffusion.bound import even_nodes
from nelbo.diffusion.gaussian_entry import GaussianEntry
from nelbo.diffusion.residual_decoder import ResidualDecoder
from nelbo.diffusion.reverse import KERNELS, ReverseKernel
from nelbo.diffusion.spectral_basis import Basis
from nelbo.errors import NelboError, one_line
from nelbo.models.fingerprint import fingerprint
from nelbo.models.interface import DiffusionModel, check_n_steps
from nelbo.runtime.atomic import new_file
from nelbo.runtime.tensor_file import read_tensors
from nelbo.time_schedule.checks import check_schedule

FORMAT = "nelbo time schedule 1"
_DAMAGE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
WITH_ENTRY = "nelbo time schedule 2"  # What earlier versions would misread: a chain that enters with a Gaussian.
_ENTRY_TENSORS = ("entry.mean", "entry.variance", "entry.colours")
_OWN_TENSORS = ("gammas", "exit.weights", "exit.scales", "basis.colours", *_ENTRY_TENSORS)  # Others are the kernel's.


@dataclass(frozen=True)
class PredictedBound:
    """What the error table says a schedule costs on its images, in bits per dimension.

    Attributes:
        bpd: The bound.
        standard_error: Of the bound, over images; an upper limit, as if all its terms moved together.
        prior: KL(q(z | x) || p(z)) where the chain enters.
        diffusion: All steps.
        reconstruction: The exit.
    """

    bpd: float
    standard_error: float
    prior: float
    diffusion: float
    reconstruction: float


@dataclass(frozen=True, eq=False)
class TimeSchedule:
    r"""A chain of K network calls.

    Attributes:
        gammas: The latents' levels, increasing, float64. The last is where the chain enters.
        reverse: The reverse kernel of its steps, a key of :data:`nelbo.diffusion.reverse.KERNELS`.
        exit: p(x | z) at the first level; None is the model's own decoder.
        fingerprint: Of the model it was made for.
        image_shape: Of the model's images.
        n_steps: K, the network calls an image: one a step, and one more where the exit reads the network's output.
        timesteps: Of a discrete-time model, the integer timestep of each level.
        prediction: What it should cost, where an error table says.
        tensors: By name, what the reverse kernel of each step holds, a row each; see
            :meth:`nelbo.diffusion.reverse.ReverseKernel.tensors`.
        basis: The basis in which the reverse kernels are diagonal; None is the pixels.
        entry: The Gaussian that the chain enters with; None is :math:`\mathcal N(0, I)`.
    """

    gammas: Float[Tensor, " m"]
    reverse: str
    exit: ResidualDecoder | None
    fingerprint: str
    image_shape: tuple[int, int, int]
    n_steps: int
    timesteps: tuple[int, ...] | None
    prediction: PredictedBound | None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    basis: Basis | None = None
    entry: GaussianEntry | None = None

    @property
    def bpd(self) -> float:
        """The predicted bound in bits per dimension; NaN where there is no prediction."""
        return math.nan if self.prediction is None else self.prediction.bpd

    @property
    def prediction_error(self) -> float:
        """The standard error of the predicted bound; NaN where there is no prediction."""
        return math.nan if self.prediction is None else self.prediction.standard_error

    def kernel(self, step: int) -> ReverseKernel:
        """Returns p(z_s | z_t) of the step from ``gammas[step + 1]`` down to ``gammas[step]``."""
        row = {name: tensor[step] for name, tensor in self.tensors.items()}
        return KERNELS[self.reverse].of_tensors(row, self.basis, self.image_shape)

    def check_model(self, model: DiffusionModel) -> None:
        """Raises NelboError if a model is not the one the schedule was made for."""
        found = fingerprint(model)
        if found != self.fingerprint:
            raise NelboError(
                f"the time schedule was made for model {self.fingerprint[:12]}, this one is {found[:12]}: "
                "find schedules for this model with `nelbo schedule`"
            )

    def save(self, path: str | Path) -> None:
        """Writes the schedule as safetensors, whole or not at all."""
        tensors = {"gammas": self.gammas, **self.tensors}
        if self.exit is not None:
            tensors |= {"exit.weights": self.exit.weights, "exit.scales": self.exit.scales}
        if self.basis is not None:
            tensors["basis.colours"] = self.basis.colours
        if self.entry is not None:
            tensors |= _entry_tensors(self.entry)
        header = {"format": FORMAT if self.entry is None else WITH_ENTRY, "schedule": json.dumps(self._header())}
        with new_file(Path(path)) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, header)

    @staticmethod
    def load(path: str | Path) -> "TimeSchedule":
        """Reads a schedule, the inverse of :meth:`save`.

        Raises:
            NelboError: If the file is missing, damaged or something else.
        """
        if not Path(path).is_file():
            raise NelboError(f"no time schedule at {path}: find some with `nelbo schedule MODEL --out FOLDER`")
        header, tensors = read_tensors(path, "{path} is damaged or no time schedule ({error})")
        if header.get("format") not in (FORMAT, WITH_ENTRY):
            found = header.get("format", "no format")
            raise NelboError(f"{path} is no time schedule of this version of nelbo ({found!r})")
        try:
            schedule = _from_file(json.loads(header["schedule"]), tensors)
            check_schedule(schedule)
        except _DAMAGE as error:
            raise NelboError(f"{path} is damaged: {one_line(error, 200)}") from None
        return schedule

    def _header(self) -> dict[str, object]:
        return {
            "reverse": self.reverse,
            "exit": None if self.exit is None else {"kind": self.exit.kind, "rounding": self.exit.rounding},
            "fingerprint": self.fingerprint,
            "image_shape": self.image_shape,
            "n_steps": self.n_steps,
            "timesteps": self.timesteps,
            "prediction": None if self.prediction is None else asdict(self.prediction),
            "block": None if self.basis is None else self.basis.block,
        }


def _from_file(header: dict[str, object], tensors: dict[str, Tensor]) -> TimeSchedule:
    fields = dict(header)
    leave, block, steps = fields.pop("exit"), fields.pop("block"), fields.pop("timesteps")
    shape, prediction = fields.pop("image_shape"), fields.pop("prediction")
    exit = None
    if leave is not None:
        weights, scales = tensors["exit.weights"], tensors["exit.scales"]
        exit = ResidualDecoder(weights=weights, scales=scales, **leave)  # pyright: ignore
    return TimeSchedule(
        gammas=tensors["gammas"],
        exit=exit,
        image_shape=tuple(shape),  # pyright: ignore
        timesteps=None if steps is None else tuple(steps),  # pyright: ignore
        prediction=None if prediction is None else PredictedBound(**prediction),  # pyright: ignore
        tensors={name: tensor for name, tensor in tensors.items() if name not in _OWN_TENSORS},
        basis=None if block is None else Basis(tensors["basis.colours"], tuple(block)),  # pyright: ignore
        entry=_entry(tensors, tuple(shape)),  # pyright: ignore
        **fields,  # pyright: ignore
    )


def _entry_tensors(entry: GaussianEntry) -> dict[str, Tensor]:
    return dict(zip(_ENTRY_TENSORS, (entry.mean, entry.variance, entry.basis.colours), strict=True))


def _entry(tensors: dict[str, Tensor], image_shape: tuple[int, int, int]) -> GaussianEntry | None:
    """Returns the entry of a file's tensors, the inverse of :func:`_entry_tensors`; None where there is none."""
    if not any(name in tensors for name in _ENTRY_TENSORS):
        return None
    mean, variance, colours = (tensors[name].double() for name in _ENTRY_TENSORS)
    is_whole = all(bool(torch.isfinite(tensor).all()) for tensor in (mean, variance, colours))
    if mean.ndim != 3 or mean.shape != variance.shape or colours.shape != (len(mean), len(mean)) or not is_whole:
        raise ValueError("the tensors of its entry do not fit together")
    if bool((variance < 0).any()):
        raise ValueError("its entry has negative variances")
    _, height, width = mean.shape
    entry = GaussianEntry(Basis(colours, (height, width)), mean, variance)
    entry.check_shape(image_shape)
    return entry


def plain_schedule(model: DiffusionModel, n_steps: int) -> TimeSchedule:
    """Returns the schedule of K even steps: in the time of the noise schedule, or among a discrete model's levels.

    Args:
        model: The model.
        n_steps: K, the network calls.

    Raises:
        NelboError: If K is out of range.
    """
    check_n_steps(n_steps, model.gammas)
    levels = None if model.gammas is None else even_nodes(len(model.gammas), n_steps)
    gammas = model.noise_schedule.grid(n_steps) if model.gammas is None else model.gammas[levels]
    gammas = gammas.detach().cpu().to(torch.float64)
    rows = {name: tensor.expand(len(gammas) - 1, *tensor.shape) for name, tensor in model.reverse.tensors().items()}
    return TimeSchedule(
        gammas=gammas,
        reverse=model.reverse.name,
        exit=None,
        fingerprint=fingerprint(model),
        image_shape=model.image_shape,
        n_steps=n_steps,
        timesteps=None if levels is None else tuple(levels),
        prediction=None,
        tensors={name: row.clone() for name, row in rows.items()},
    )
