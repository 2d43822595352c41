"""Which executor runs: the fastest of the device that gives the known answers, here and now, at this batch size.

Executors return the same integers by construction. Whether they do on this machine is not taken on trust: PyTorch may
choose another algorithm for another batch size, number of threads or setting. Before the first call of each kind the
known answers of the frozen network are computed; an executor that misses one is never used for that kind of call.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import torch

from nelbo.errors import NelboError
from nelbo.integer.embedding import Conditions
from nelbo.integer.executors import Executor, NativeExecutor, ReferenceExecutor
from nelbo.integer.operations.operation import Integers
from nelbo.integer.program import IntegerNetwork

MAX_BATCH = 32  # Images a call; more are run in turns.
EXECUTORS = ("native", "float32", "reference")
_FASTEST_FIRST = {"cpu": ("native", "reference")}
_ELSEWHERE = ("float32", "reference")

_BACKEND_FLAGS = (
    "mkldnn.enabled",
    "cudnn.enabled",
    "cudnn.allow_tf32",
    "cuda.matmul.allow_tf32",
    "cudnn.conv.fp32_precision",
    "cuda.matmul.fp32_precision",
    "mkldnn.conv.fp32_precision",
    "mkldnn.matmul.fp32_precision",
)
_SETTINGS: tuple[Callable[[], object], ...] = (
    torch.get_num_threads,
    torch.get_float32_matmul_precision,
    *(partial(attrgetter(name), torch.backends) for name in _BACKEND_FLAGS),
)


@dataclass(frozen=True)
class KnownAnswer:
    """Latents and the result that the network must give for them.

    Attributes:
        conditions: Their conditioning.
        z: The latents, one image.
        result: The network's result.
    """

    conditions: Conditions
    z: Integers
    result: Integers


class Execution:
    """Runs a network by checked executors.

    Args:
        network: The network.
        known: The known answers; none before there are any.
        device: Where to compute.
        executor: The one to use, ``auto`` for the fastest that passes.

    Raises:
        NelboError: If there is no executor of that name, or it cannot run the program.
    """

    def __init__(
        self,
        network: IntegerNetwork,
        known: Sequence[KnownAnswer],
        device: torch.device,
        executor: str = "auto",
    ) -> None:
        self._network, self._known, self._device = network, known, device
        names = _FASTEST_FIRST.get(device.type, _ELSEWHERE) if executor == "auto" else (executor,)
        made = {name: self._make(name, is_only=executor != "auto") for name in names}
        self._executors: dict[str, Executor] = {name: value for name, value in made.items() if value is not None}
        self._chosen: dict[tuple[object, ...], str] = {}

    def run(self, z: Integers, conditions: Conditions) -> Integers:
        """Returns the network's result for latents of one conditioning.

        Raises:
            NelboError: If no executor gives the known answers on this machine.
        """
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            parts = z.to(self._device).split(MAX_BATCH)
            return torch.cat([self._executors[self.choice(len(part))].run(part, conditions) for part in parts])

    def choice(self, n_images: int) -> str:
        """Returns the name of the executor for calls of so many images, under PyTorch's present settings."""
        kind = (n_images, *map(_value, _SETTINGS))
        if kind not in self._chosen:
            self._chosen[kind] = self._choose(n_images)
        return self._chosen[kind]

    def _choose(self, n_images: int) -> str:
        for name, executor in self._executors.items():
            if all(self._agrees(executor, answer, n_images) for answer in self._known):
                return name
        raise NelboError(
            f"{' and '.join(self._executors)}: no executor of the frozen network gives its known answers on this "
            "machine, so nothing compressed here could be decoded elsewhere; use another PyTorch or device"
        )

    def _agrees(self, executor: Executor, answer: KnownAnswer, n_images: int) -> bool:
        batch = answer.z.to(self._device).expand(n_images, -1, -1, -1).contiguous()
        result = executor.run(batch, answer.conditions)
        return bool((result == answer.result.to(self._device)).all())

    def _make(self, name: str, is_only: bool) -> Executor | None:
        """Returns an executor; None where another can be used and this one cannot run the program."""
        if name not in EXECUTORS or (name == "native" and self._device.type != "cpu"):
            raise NelboError(f"no executor {name!r} for {self._device.type}; there are auto, {', '.join(EXECUTORS)}")
        try:
            if name == "native":
                return NativeExecutor(self._network)
            arithmetic = "float64" if name == "reference" else "float32"
            return ReferenceExecutor(self._network, self._device, arithmetic)
        except NelboError:
            if is_only:
                raise
            return None


def _value(setting: Callable[[], object]) -> object:
    """Returns what may make PyTorch choose other algorithms; None where it does not say.

    Flags of precision come in two generations: an old PyTorch has not the new ones, and a new one refuses to read an
    old flag where a new one was set.
    """
    try:
        return setting()
    except (AttributeError, RuntimeError):
        return None
