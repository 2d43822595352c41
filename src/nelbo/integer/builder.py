"""A program in the making: what translations of networks append their operations to."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from nelbo.errors import NelboError
from nelbo.integer.embedding import Embedding
from nelbo.integer.operations.operation import Operation
from nelbo.integer.tensors import Tensors


class Builder:
    """Operations and weights of a network.

    Args:
        net: The network, whose parameters are to be read completely.
        networks: By the full names of their classes, networks and what they read beside the latent: what is called
            with the builder and the module.
        blocks: Likewise modules from features to features: what is called with the builder, the module and the
            position that it reads, and returns the position of its result.
    """

    def __init__(
        self, net: nn.Module, networks: Mapping[str, Callable[..., Any]], blocks: Mapping[str, Callable[..., int]]
    ) -> None:
        self.operations: list[Operation] = []
        self.tensors: Tensors = {}
        self.embedding = Embedding(low=0, high=1)
        self.adds_latent = False
        self._networks, self._blocks = networks, blocks
        self._names = {id(module): name for name, module in net.named_modules()}
        self._unread = {id(parameter): name for name, parameter in net.named_parameters()}

    def network(self, module: nn.Module) -> None:
        """Translates a network, or what it reads beside the latent.

        Raises:
            NelboError: If there is no translation for its class.
        """
        self._find(self._networks, module)(self, module)

    def block(self, module: nn.Module, source: int) -> int:
        """Translates a module from features to features; returns the position of its result.

        Raises:
            NelboError: If there is no translation for its class.
        """
        return self._find(self._blocks, module)(self, module, source)

    def emit(self, operation: Operation, weights: Mapping[str, Tensor | None] | None = None) -> int:
        """Appends an operation with its weights; returns its position."""
        position = len(self.operations)
        self.operations.append(operation)
        for name, tensor in (weights or {}).items():
            self.keep(f"{position}.{name}", tensor)
        return position

    def keep(self, name: str, tensor: Tensor | None) -> None:
        """Stores a weight beside the program; a missing bias is left out."""
        if tensor is not None:
            self._unread.pop(id(tensor), None)
            self.tensors[name] = tensor.detach().double().cpu()

    def check_complete(self) -> None:
        """Raises NelboError if a parameter of the network was not read."""
        if self._unread:
            name = next(iter(self._unread.values()))
            raise NelboError(f"freeze: no operation of the integer executor covers {name!r}")

    def name(self, module: nn.Module) -> str:
        """Returns what the network calls a module."""
        return self._names.get(id(module)) or "the network"

    def _find(self, table: Mapping[str, Callable[..., Any]], module: nn.Module) -> Callable[..., Any]:
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        if kind not in table:
            raise NelboError(f"freeze: the integer executor has no operation for {kind} ({self.name(module)})")
        return table[kind]
