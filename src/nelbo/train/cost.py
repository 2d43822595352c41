"""What a run costs, worked out on fake tensors, without storage or time: parameters, operations, memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from nelbo.errors import NelboError
from nelbo.runtime.meter import duration
from nelbo.train.config import TrainConfig

_BYTES_PER_PARAMETER = 20  # weight, gradient, two moments and the average, in float32


@contextmanager
def settings_fit() -> Iterator[None]:
    """Says in one line what torch.nn says at length about sizes that do not fit together.

    Raises:
        NelboError: If the block builds or runs a network that its settings do not allow.
    """
    try:
        yield
    except NelboError:
        raise
    except (RuntimeError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise NelboError(f"the model cannot be built with these settings: {problem}") from None


def n_parameters(config: TrainConfig) -> int:
    """Returns the number of the network's parameters."""
    with FakeTensorMode():
        return sum(p.numel() for p in _net(config).parameters())


def forward_flop(config: TrainConfig) -> int:
    """Returns the floating-point operations of one network evaluation of one image, 2 for each multiply-add."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter, torch.no_grad():
        _evaluate(_net(config), config)
    return counter.get_total_flops()


def activation_bytes(config: TrainConfig) -> int:
    """Returns the bytes that one image's forward pass keeps for the backward pass, in float32."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with FakeTensorMode():
        net = _net(config)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            output = _evaluate(net, config)  # alive until all are counted, so that no two storages share a name
        del output
        return sum(kept[name] for name in kept.keys() - {_storage(p) for p in net.parameters()})


@dataclass(frozen=True)
class RunCost:
    """What a run costs.

    Attributes:
        n_parameters: The network's parameters.
        evaluation_flop: Floating-point operations of one network evaluation of one image.
        training_flop: Those of a training step, for each image: forward and backward.
        n_updates: Steps of the whole run.
        n_images: Images of the whole run.
        memory_bytes: Weights, gradients, moments, average and activations in float32, without what PyTorch adds.
        images_per_second: Measured on this machine; None where it was not.
    """

    n_parameters: int
    evaluation_flop: int
    training_flop: int
    n_updates: int
    n_images: int
    memory_bytes: int
    images_per_second: float | None = None

    @property
    def seconds(self) -> float | None:
        """How long the steps of the whole run take."""
        return None if self.images_per_second is None else self.n_images / self.images_per_second

    def rows(self) -> list[tuple[str, str]]:
        """Returns a table for people."""
        whole = f"{self.n_updates} steps, {self.n_images} images, {self.training_flop * self.n_images:.3g} FLOP"
        time = "not measured: a step takes too long to try here"
        if self.images_per_second is not None and self.seconds is not None:
            time = f"{duration(self.seconds)} on this machine, at {self.images_per_second:.3g} images a second"
        return [
            ("parameters", f"{self.n_parameters / 1e6:.2f} M"),
            ("network evaluation", f"{self.evaluation_flop / 1e9:.3f} GFLOP an image"),
            ("training", f"{self.training_flop / 1e9:.3f} GFLOP an image (forward and backward)"),
            ("whole run", whole),
            ("memory", f"{self.memory_bytes / 2**30:.2f} GiB in float32"),
            ("time", time),
        ]


def run_cost(config: TrainConfig, images_per_second: float | None = None) -> RunCost:
    """Returns what a run costs; its speed is measured by :func:`nelbo.train.speed.images_per_second`.

    Raises:
        NelboError: If the network cannot be built or does not take the model's images.
    """
    with settings_fit():
        n, flop, activations = n_parameters(config), forward_flop(config), activation_bytes(config)
    memory = n * _BYTES_PER_PARAMETER + config.batch_size * activations
    return RunCost(n, flop, 3 * flop, config.n_updates, config.n_images, memory, images_per_second)


def _net(config: TrainConfig) -> nn.Module:
    return config.model.build_net()


def _evaluate(net: nn.Module, config: TrainConfig) -> Tensor:
    labels = torch.zeros(1, dtype=torch.int64) if config.model.n_classes else None
    return net(torch.empty(1, *config.model.image_shape), torch.empty(1), labels)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
