"""Executors: what runs a program, in floating point, in plain PyTorch on any device, or in compiled loops on CPUs.

Each makes every operation ready once and then runs them in order. What an operation computes stands with it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from nelbo.errors import NelboError
from nelbo.integer.arithmetic import LATENT_BITS, LATENT_LIMIT, OUTPUT_BITS, floor_shift
from nelbo.integer.embedding import Conditions
from nelbo.integer.feature_map import DigitFormat, Map
from nelbo.integer.operations.operation import Integers, NativeStep, Observer
from nelbo.integer.program import IntegerNetwork, Program
from nelbo.integer.tables import for_loops
from nelbo.integer.tensors import Tensors, by_owner


@runtime_checkable  # For the type checks of the tests.
class Executor(Protocol):
    """What runs a network in integers; all executors return the same."""

    def run(self, z: Integers, conditions: Conditions) -> Integers:
        """Returns the network's result for latents of one conditioning."""
        ...


def run_float(
    program: Program,
    tensors: Tensors,
    z: Float[Tensor, "b c h w"],
    gamma: float,
    observe: Observer = lambda name, value: None,
) -> Float[Tensor, "b k y x"]:
    """Returns the network's result in the precision of the latents and weights: the oracle of the translation.

    Args:
        program: As translated.
        tensors: Its float weights.
        z: The latents.
        gamma: Their gamma.
        observe: Called with each value whose range a frozen network must know: ``<position>.`` for results,
            ``<position>.<name>`` for what an operation shows, ``<position>.condition`` and ``embedding.<name>``.
    """
    owned = by_owner(tensors)
    embedded = program.embedding.run_float(owned["embedding"], gamma, lambda name, x: observe(f"embedding.{name}", x))
    results: list[Tensor] = []
    for position, op in enumerate(program.operations):
        own, condition = owned.get(f"{position}", {}), None

        def show(name: str, value: Tensor, position: int = position) -> None:
            observe(f"{position}.{name}", value)

        if "condition.weight" in own:
            condition = linear(embedded, own["condition.weight"])
            show("condition", condition)
        results.append(op.run_float(z, [results[source] for source in op.sources], condition, own, show))
        show("", results[-1])
    return results[-1] + z if program.adds_latent else results[-1]


class ReferenceExecutor:
    """The executor that is the specification: every operation in plain PyTorch, integers in float64, on any device.

    Each step is exact: a sum or product of integers below 2^53, a product with a power of two, a floor, a table's
    entry; or it is one IEEE division or square root, which is correctly rounded everywhere. No product of inexact
    numbers feeds a sum, so that fused multiply-adds would change nothing either.

    Args:
        network: The network.
        device: Where to compute.
        arithmetic: What convolutions multiply in: float64, or float32 with as many digits as its 24 bits need.

    Raises:
        NelboError: If float32 is asked for and a convolution needs too many digits.
    """

    def __init__(
        self,
        network: IntegerNetwork,
        device: torch.device,
        arithmetic: Literal["float64", "float32"] = "float64",
    ) -> None:
        self._network = network
        tables, *weights = (
            {name: tensor.to(device) for name, tensor in tensors.items()}
            for tensors in (network.tables, *network.weights)
        )
        made = zip(network.program.operations, network.places, weights, strict=True)
        self._steps = [op.reference(place, own, tables, arithmetic) for op, place, own in made]

    def run(self, z: Integers, conditions: Conditions) -> Integers:
        """Returns the network's result for latents of one conditioning."""
        return _run(self._network, self._steps, z, conditions, lambda result: result)


class NativeExecutor:
    """The fast executor for CPUs: all in compiled loops, convolutions of 16-bit integers.

    Args:
        network: The network.

    Raises:
        NelboError: If an operation has no loops for what this network asks of it.
    """

    def __init__(self, network: IntegerNetwork) -> None:
        self._network = network
        readers, tables = network.program.readers(), for_loops(network.tables)  # Once: copies would crowd the cache.
        made = zip(network.program.operations, network.places, network.weights, strict=True)
        wanted = [op.digits(place, own) for op, place, own in made]
        self._steps: list[NativeStep] = []
        for position, op in enumerate(network.program.operations):
            digits: DigitFormat | None = wanted[readers[position][0]] if len(readers[position]) == 1 else None
            place, own = network.places[position], network.weights[position]
            self._steps.append(op.native(place, own, tables, digits))

    def run(self, z: Integers, conditions: Conditions) -> Integers:
        """Returns the network's result for latents of one conditioning."""
        return _run(self._network, self._steps, z, conditions, _images_of)


def _run(
    network: IntegerNetwork,
    steps: Sequence[Callable[..., Any]],
    z: Integers,
    conditions: Conditions,
    images_of: Callable[[Any], Integers],
) -> Integers:
    """Runs all steps in order, forgetting each result after its last use."""
    z, results = z.clamp(-LATENT_LIMIT, LATENT_LIMIT), dict[int, Any]()
    for position, (step, sources, forgotten) in enumerate(zip(steps, network.sources, network.last_uses, strict=True)):
        results[position] = step(z, [results[source] for source in sources], conditions.get(position))
        for source in forgotten:
            del results[source]
    result = images_of(results.popitem()[1])
    return result + floor_shift(z, LATENT_BITS - OUTPUT_BITS) if network.program.adds_latent else result


def _images_of(result: Map) -> Integers:
    if not isinstance(result, Map):
        raise NelboError("the network's result is in digits")
    return result.images.double().contiguous()
