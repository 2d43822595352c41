r"""Frozen models: networks in integers, whose answers are the same on every machine; one file each.

The file is in safetensors format: the tables and weights as integers, known answers, and in its metadata the program,
where it comes from, and what freezing costs in bits per dimension.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from nelbo.errors import NelboError
from nelbo.integer.arithmetic import (
    COEFFICIENT_BITS,
    EXECUTOR_VERSION,
    LATENT_BITS,
    LATENT_LIMIT,
    OUTPUT_BITS,
    RESULT_BITS,
)
from nelbo.integer.execution import Execution, KnownAnswer
from nelbo.integer.noise_level import make_level
from nelbo.integer.operations.operation import Integers
from nelbo.integer.program import IntegerNetwork, Program
from nelbo.integer.tensors import tensor_of
from nelbo.runtime.atomic import new_file
from nelbo.runtime.tensor_file import read_tensors

_KEY = "nelbo.frozen"
MAX_KNOWN = 16  # Known answers: each executor computes all of them before its first call.


class Cost(BaseModel):
    r"""What freezing a network costs.

    Attributes:
        bpd: :math:`\tfrac12 (\gamma_1 - \gamma_0) / \ln 2` times the mean square of :math:`\hat\epsilon`'s change, in
            bits per dimension.
        difference_bpd: The difference of the bounds themselves, with the same noise for both networks.
        standard_error: That difference's standard error.
        rms_error: Root of the mean square of :math:`\hat\epsilon`'s change.
        n_images: Images measured.
        data: What they were.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    bpd: float
    difference_bpd: float
    standard_error: float
    rms_error: float
    n_images: int
    data: str


class Header(BaseModel):
    """The metadata of a frozen model's file.

    Attributes:
        executor_version: Version of the meaning of programs.
        program: The network.
        model_sha256: Digest of the model that was frozen.
        gamma_0: Gamma of its cleanest latent.
        gamma_1: Gamma of its noisiest latent.
        n_limbs: Digits that its weights were rounded for.
        cost: What freezing costs; None while that is being measured.
        known_gammas: Gammas of the known answers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    executor_version: Literal[1]  # EXECUTOR_VERSION
    program: Program
    model_sha256: str
    gamma_0: float
    gamma_1: float
    n_limbs: int
    cost: Cost | None = None
    known_gammas: Annotated[tuple[float, ...], Field(max_length=MAX_KNOWN)] = ()


@dataclass(frozen=True)
class Prediction:
    """The prediction of a frozen model, as integers in float64, in units of 2^-20.

    Attributes:
        eps_hat: The noise expected in each latent.
        x_hat: The image expected behind it.
    """

    eps_hat: Integers
    x_hat: Integers


class FrozenModel:
    """A network in integers.

    Args:
        header: What it is.
        tensors: Its integers.
        device: Where to compute.
        executor: ``auto`` for the fastest that gives the known answers, or one of ``EXECUTORS``.

    Raises:
        NelboError: If a tensor does not fit the program or a sum may not be exact (:class:`IntegerNetwork`), the
            executor is unknown, or it cannot run the network.
    """

    def __init__(
        self,
        header: Header,
        tensors: Mapping[str, Tensor],
        device: str | torch.device = "cpu",
        executor: str = "auto",
    ) -> None:
        self.header, self.tensors = header, dict(tensors)
        self._text = header.model_dump_json()
        try:
            network = IntegerNetwork(header.program, tensors)
            self.level = lru_cache(maxsize=4096)(lambda gamma: make_level(network, gamma))
            known = [self._known_answer(i, gamma) for i, gamma in enumerate(header.known_gammas)]
        except NelboError as error:
            raise NelboError(f"the frozen model does not fit its program: {error}") from None
        self._execution = Execution(network, known, torch.device(device), executor)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its latents."""
        return self.header.program.image_shape

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides its answers, in hexadecimal digits."""
        return digest(self._text, self.tensors)

    def executor(self, n_images: int) -> str:
        """Returns the name of the executor that calls of so many images use here."""
        return self._execution.choice(n_images)

    def result(self, z: Tensor, gamma: float) -> Integers:
        """Returns the network's own result, in units of 2^-16.

        Args:
            z: Latents of one gamma, integers in units of 2^-18, in int64 or float64; clamped to ±16.
            gamma: Their gamma.

        Raises:
            NelboError: If the latents do not fit, gamma is far out of range, or no executor is exact here.
        """
        return self._execution.run(_as_latents(z, self.image_shape), self.level(gamma).conditions)

    def predict(self, z: Tensor, gamma: float) -> Prediction:
        r"""Returns the noise and the image expected, exactly.

        From v (Salimans & Ho, 2022): :math:`\hat\epsilon = \sigma z + \alpha \hat v`,
        :math:`\hat x = \alpha z - \sigma \hat v`; from the noise: :math:`\hat x = (z - \sigma\hat\epsilon)/\alpha`.

        Args:
            z: Latents of one gamma, integers in units of 2^-18, in int64 or float64; clamped to ±16.
            gamma: Their gamma.

        Raises:
            NelboError: As :meth:`result`.
        """
        result, level = self.result(z, gamma), self.level(gamma)
        z = clamped(_as_latents(z, self.image_shape).to(result.device)) * 2.0 ** (RESULT_BITS - LATENT_BITS)
        result = result * 2.0 ** (RESULT_BITS - OUTPUT_BITS)
        alpha, sigma, one = float(level.alpha), float(level.sigma), 2.0**COEFFICIENT_BITS
        if self.header.program.prediction == "v":
            return Prediction(_rounded(sigma * z + alpha * result, one), _rounded(alpha * z - sigma * result, one))
        return Prediction(result, _rounded(one * z - sigma * result, alpha))

    def save(self, path: Path) -> None:
        """Writes the model to a file, whole or not at all."""
        metadata = {_KEY: self._text, "sha256": self.fingerprint}
        with new_file(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, temporary, metadata)

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "cpu", executor: str = "auto") -> "FrozenModel":
        """Returns the model of a file.

        Raises:
            NelboError: If it is no frozen model, is damaged, or of another version; the message names it.
        """
        metadata, tensors = read_tensors(path, "{path} is missing or damaged ({error}): freeze the model again")
        text = metadata.get(_KEY, "")
        header = _parse(text, str(path))
        if digest(text, tensors) != metadata.get("sha256"):
            raise NelboError(f"{path} is damaged: its contents do not have the SHA-256 it states; copy it again")
        if not header.known_gammas:
            raise NelboError(f"{path} holds no known answers, so no executor can be checked: freeze the model again")
        try:
            model = cls(header, tensors, device, executor)
        except NelboError as error:
            raise NelboError(f"{path}: {error}") from None
        model._text = text  # As the file has it: another version of nelbo may write the same header otherwise.
        return model

    def _known_answer(self, i: int, gamma: float) -> KnownAnswer:
        shape = (1, *self.image_shape)
        z, result = (tensor_of(self.tensors, f"known.{i}.{name}", torch.int32, shape) for name in ("z", "result"))
        return KnownAnswer(self.level(gamma).conditions, z.double(), result.double())


def digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of a text and tensors, by names, types, shapes and bytes."""
    total = sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _as_latents(z: Tensor, shape: tuple[int, int, int]) -> Integers:
    """Returns latents as integers in float64."""
    if tuple(z.shape[1:]) != tuple(shape) or z.ndim != 4:
        raise NelboError(f"the frozen model takes latents of shape (batch, {shape}), got {tuple(z.shape)}")
    if z.dtype not in (torch.int64, torch.float64):
        raise NelboError(f"latents are integers in int64 or float64, got {z.dtype}")
    return z.double()


def clamped(z: Integers) -> Integers:
    """Returns latents as the network reads them."""
    return z.clamp(-LATENT_LIMIT, LATENT_LIMIT)


def _rounded(numerator: Tensor, denominator: float) -> Integers:
    """Returns a quotient of integers, rounded: one IEEE division, which is the same everywhere."""
    return (numerator / denominator + 0.5).floor()


def _parse(text: str, source: str) -> Header:
    if not text:
        raise NelboError(f"{source} is no frozen model: make one with nelbo freeze")
    try:
        return Header.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        if problem["loc"] == ("executor_version",):
            given = ascii(problem.get("input"))[:20]
            raise NelboError(
                f"{source} is for version {given} of the integer executor, this is {EXECUTOR_VERSION}: "
                "install the nelbo that it was made with, or freeze the model again"
            ) from None
        field = ".".join(str(part) for part in problem["loc"])
        what = ascii(f"{field:.80}: {problem['msg']:.200}")[1:-1]  # A file may name its fields as it likes.
        raise NelboError(f"{source} is damaged: {what}") from None
