"""From networks to programs: one translation for each module that the networks are made of, found by its full name.

What has no translation is refused by name, and so is a network with a parameter that no translation has read: a
module that was changed since is noticed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nelbo.errors import NelboError
from nelbo.integer.builder import Builder
from nelbo.integer.embedding import Embedding
from nelbo.integer.operations.add import Add
from nelbo.integer.operations.attention import Attend
from nelbo.integer.operations.concat import Concat
from nelbo.integer.operations.convolution import Conv
from nelbo.integer.operations.features import Features
from nelbo.integer.operations.norm import Norm
from nelbo.integer.operations.shuffle import Shuffle, Unshuffle
from nelbo.integer.program import Program
from nelbo.integer.tensors import Tensors
from nelbo.models.interface import DiffusionModel
from nelbo.models.vdm import VDM


def translate(model: DiffusionModel) -> tuple[Program, Tensors]:
    """Returns the program of a model's network, and its weights in float64.

    Raises:
        NelboError: If the network holds a module or a parameter that no operation covers; the message names it.
    """
    if not isinstance(model, VDM):
        raise NelboError(f"freeze: a {type(model).__name__} has no bit-exact translation; only a VDM has")
    if model.config.prediction == "x" or model.n_classes:
        kind = "class-conditional model" if model.n_classes else "network that predicts x"
        raise NelboError(f"freeze: a {kind} has no bit-exact translation yet; models of eps or v without classes have")
    builder = Builder(model.net, NETWORKS, BLOCKS)
    builder.network(model.net)
    builder.check_complete()
    program = Program(
        image_shape=model.image_shape,
        operations=tuple(builder.operations),
        embedding=builder.embedding,
        adds_latent=builder.adds_latent,
        prediction=model.config.prediction,
    )
    return program, builder.tensors


# Layers. The arguments are modules of nelbo.nets or torch, which the table below finds by the names of their classes.


def _conv(b: Builder, module: nn.Module, source: int) -> int:
    return b.emit(*Conv.of(module, source, b.name(module)))


def _identity(b: Builder, module: Any, source: int) -> int:  # noqa: ANN401
    return source


def _stem(b: Builder, module: Any) -> int:  # noqa: ANN401
    source = b.emit(Features(exponents=module.fourier))
    return _conv(b, module, b.emit(Unshuffle(source=source, factor=module.patch)) if module.patch > 1 else source)


def _embedding(b: Builder, module: Any) -> None:  # noqa: ANN401
    if module.dense0.in_features != module.n_frequencies + module.n_constant:
        raise NelboError(f"freeze: {b.name(module)} reads something else than gamma")
    b.embedding = Embedding(low=module.gamma_range[0], high=module.gamma_range[1])
    half = module.n_frequencies // 2
    spacing = torch.log(torch.tensor(1e4, dtype=torch.float64)) / (half - 1)
    b.keep("embedding.rates", 1000 * torch.exp(-spacing * torch.arange(half, dtype=torch.float64)))
    for name in ("dense0", "dense1"):
        layer = getattr(module, name)
        b.keep(f"embedding.{name}.weight", layer.weight)
        b.keep(f"embedding.{name}.bias", layer.bias)
    weight = b.tensors["embedding.dense0.weight"]  # The constant inputs are zeros: their weights do nothing.
    b.tensors["embedding.dense0.weight"] = weight[:, : module.n_frequencies]


def _null_condition(b: Builder, module: Any) -> None:  # noqa: ANN401
    """Adds what the network reads for an image that was not augmented, a constant, to the embedding's bias."""
    for table in module.codes:
        b.keep("code", table.weight)
        b.tensors["embedding.dense1.bias"] = b.tensors["embedding.dense1.bias"] + b.tensors.pop("code")[0]


def _residual_block(b: Builder, module: Any, source: int) -> int:  # noqa: ANN401
    h = b.emit(*Norm.of(module.norm1, source, b.name(module.norm1), silu=True))
    condition = "modulate" if module.modulated else "before"
    h = b.emit(*Norm.of(module.norm2, _conv(b, module.conv1, h), b.name(module.norm2), silu=True, condition=condition))
    b.keep(f"{h}.condition.weight", module.cond_proj.weight)
    return b.emit(Add(left=b.block(module.shortcut, source), right=_conv(b, module.conv2, h)))


def _attention(b: Builder, module: Any, source: int) -> int:  # noqa: ANN401
    h = b.emit(*Norm.of(module.norm, source, b.name(module.norm), silu=False))
    attended = b.emit(Attend(source=_conv(b, module.qkv, h), heads=module.n_heads))
    return b.emit(Add(left=source, right=_conv(b, module.proj_out, attended)))


def _stage(b: Builder, module: Any, h: int) -> int:  # noqa: ANN401
    for block, attention in zip(module.blocks, module.attentions, strict=True):
        h = b.block(attention, b.block(block, h))
    return h


# Networks


def _unet(b: Builder, net: Any) -> None:  # noqa: ANN401
    b.network(net.embedding)
    b.network(net.condition)
    skips = [_stem(b, net.conv_in)]
    for block, attention in zip(net.down, net.down_attention, strict=True):
        skips.append(b.block(attention, b.block(block, skips[-1])))
    h = b.block(net.middle_2, b.block(net.middle_attention, b.block(net.middle_1, skips[-1])))
    for block, attention in zip(net.up, net.up_attention, strict=True):
        h = b.block(attention, b.block(block, b.emit(Concat(left=h, right=skips.pop()))))
    _output(b, net, h)
    b.adds_latent = True


def _unet_multiscale(b: Builder, net: Any) -> None:  # noqa: ANN401
    def between(h: int, level: int) -> int:
        h = b.block(net.down[level], h)
        if level < len(net.shrink):
            coarse = between(_conv(b, net.shrink[level], h), level + 1)
            h = b.emit(Add(left=h, right=b.emit(Shuffle(source=_conv(b, net.grow[level], coarse), factor=2))))
        return b.block(net.up[level], h)

    b.network(net.embedding)
    b.network(net.condition)
    output = _output(b, net, between(_stem(b, net.conv_in), 0))
    if net.patch > 1:
        b.emit(Shuffle(source=output, factor=net.patch))


def _output(b: Builder, net: Any, h: int) -> int:  # noqa: ANN401
    return _conv(b, net.conv_out, b.emit(*Norm.of(net.norm_out, h, b.name(net.norm_out), silu=True)))


NETWORKS: dict[str, Callable[[Builder, Any], None]] = {
    "nelbo.nets.unet.UNet": _unet,
    "nelbo.nets.unet_multiscale.UNetMultiscale": _unet_multiscale,
    "nelbo.nets.layers.GammaEmbedding": _embedding,
    "nelbo.nets.layers.ConditionEmbedding": _null_condition,
}
"""Networks, and what they read beside the latent, by the full names of classes. A new network is one more entry."""

BLOCKS: dict[str, Callable[[Builder, Any, int], int]] = {
    "torch.nn.modules.conv.Conv2d": _conv,
    "torch.nn.modules.linear.Identity": _identity,
    "nelbo.nets.layers.ResidualBlock": _residual_block,
    "nelbo.nets.attention.SelfAttention": _attention,
    "nelbo.nets.unet_multiscale.Stage": _stage,
}
"""Modules from features to features, likewise."""
