"""Translated programs in floating point: the oracle of the translation, and what the limits are read from."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, group_norm, linear, pixel_shuffle, pixel_unshuffle, silu

from nelbo.integer.program import (
    Add,
    AnyOperation,
    Attend,
    Concat,
    Conv,
    Features,
    Norm,
    Program,
    Shuffle,
    Tensors,
    Unshuffle,
)

Observer = Callable[[str, Tensor], object]


def run_float(
    program: Program,
    tensors: Tensors,
    z: Float[Tensor, "b c h w"],
    gamma: float,
    observe: Observer = lambda name, value: None,
) -> Float[Tensor, "b k y x"]:
    """Returns the network's result in the precision of the latents and weights.

    Args:
        program: As translated.
        tensors: Its weights.
        z: The latents.
        gamma: Their gamma.
        observe: Called with each value whose range a frozen network must know: ``<position>`` for results,
            ``<position>.norm`` for those of norms before SiLU, ``<position>.condition`` and ``embedding.*``.
    """
    embedded = embed(program, tensors, gamma, observe)
    results: list[Tensor] = []
    for position, op in enumerate(program.operations):
        sources = [z, *(results[source] for source in op.sources)]
        weights = {
            name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{position}.")
        }
        if isinstance(op, Norm):
            result = _norm(op, sources[-1], weights, embedded, lambda n, v, p=position: observe(f"{p}.{n}", v))
        else:
            result = _operate(op, sources, weights)
        observe(f"{position}", result)
        results.append(result)
    return results[-1] + z if program.adds_latent else results[-1]


def embed(program: Program, tensors: Tensors, gamma: float, observe: Observer) -> Float[Tensor, " f"]:
    """Returns the embedding of one gamma."""
    low, high = program.embedding.low, program.embedding.high
    angles = tensors["embedding.rates"] * ((gamma - low) / (high - low))
    features = torch.cat([angles.sin(), angles.cos()])
    for name in ("embedding.dense0", "embedding.dense1"):
        hidden = linear(features, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
        observe(name, hidden)
        features = silu(hidden)
    return features


def _operate(op: AnyOperation, sources: list[Tensor], weights: Tensors) -> Tensor:
    z, x = sources[0], sources[-1]
    match op:
        case Features():
            frequencies = torch.tensor([2.0**n * math.pi for n in op.exponents], dtype=z.dtype)
            phases = (z[:, :, None] * frequencies[:, None, None]).flatten(1, 2)
            return torch.cat([z, phases.sin(), phases.cos()], dim=1)
        case Conv():
            return conv2d(x, weights["weight"], weights.get("bias"), op.stride, op.padding)
        case Attend():
            q, k, v = x.flatten(2).unflatten(1, (3, op.heads, -1)).transpose(-1, -2).unbind(1)
            p = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
            return (p @ v).transpose(-1, -2).reshape(len(x), -1, *x.shape[2:])
        case Add():
            return sources[1] + sources[2]
        case Concat():
            return torch.cat(sources[1:], dim=1)
        case Shuffle():
            return pixel_shuffle(x, op.factor)
        case Unshuffle():
            return pixel_unshuffle(x, op.factor)
        case Norm():
            raise AssertionError("norms are run with their conditioning")


def _norm(op: Norm, x: Tensor, weights: Tensors, embedded: Tensor, observe: Observer) -> Tensor:
    condition = torch.zeros(2, 1, 1, dtype=x.dtype)
    if op.condition != "none":
        condition = linear(embedded, weights["condition.weight"])[:, None, None]
        observe("condition", condition)
    if op.condition == "before":
        x = x + condition
    y = group_norm(x, op.groups, weights["gain"], weights["offset"], op.eps)
    if op.condition == "modulate":
        scale, shift = condition.chunk(2)
        y = y * (1 + scale) + shift
    observe("norm", y)
    return silu(y) if op.silu else y
