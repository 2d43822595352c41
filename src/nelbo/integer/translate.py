"""From networks to programs: one translation for each module that the networks are made of, found by its full name.

What has no translation is refused by name, and so is a network with a parameter that no translation has read: a
module that was changed since is noticed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.errors import NelboError
from nelbo.integer.program import (
    Add,
    AnyOperation,
    Attend,
    Concat,
    Conv,
    Embedding,
    Features,
    Norm,
    Program,
    Shuffle,
    Tensors,
    Unshuffle,
)
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
    builder = Builder(model.net)
    adds_latent = builder.network(model.net)
    builder.check_complete()
    program = Program(
        image_shape=model.image_shape,
        operations=tuple(builder.operations),
        embedding=builder.embedding,
        adds_latent=adds_latent,
        prediction=model.config.prediction,
    )
    return program, builder.tensors


class Builder:
    """A program in the making; its methods append operations and return the position of the last.

    Args:
        net: The network, whose parameters are to be read completely.
    """

    def __init__(self, net: nn.Module) -> None:
        self.operations: list[AnyOperation] = []
        self.tensors: Tensors = {}
        self.embedding = Embedding(low=0, high=1)
        self._names = {id(module): name for name, module in net.named_modules()}
        self._unread = {id(parameter): name for name, parameter in net.named_parameters()}

    def network(self, net: nn.Module) -> bool:
        """Translates a whole network; returns whether it adds the latent to its result."""
        return self._find(NETWORKS, net)(self, net)

    def block(self, module: nn.Module, source: int) -> int:
        """Translates a module that maps features, and perhaps the embedding, to features."""
        return self._find(BLOCKS, module)(self, module, source)

    def emit(self, operation: AnyOperation, weights: Mapping[str, Tensor | None] | None = None) -> int:
        """Appends an operation with its weights."""
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
            raise NelboError(f"freeze: no operation of the exact executor covers {next(iter(self._unread.values()))!r}")

    def conv(self, module: nn.Module, source: int) -> int:
        """Translates a convolution with a square kernel, as wide a padding on every side, and zeros there."""
        if not isinstance(module, nn.Conv2d) or not _is_plain(module):
            raise NelboError(f"freeze: {self._name(module)} is no plain convolution: {module}")
        operation = Conv(source=source, stride=module.stride[0], padding=int(module.padding[0]))
        return self.emit(operation, {"weight": module.weight, "bias": module.bias})

    def norm(self, module: nn.GroupNorm, source: int, silu: bool, condition: Any = "none") -> int:  # noqa: ANN401
        """Translates a group norm with SiLU after it or not."""
        if not module.affine:
            raise NelboError(f"freeze: {self._name(module)} has no gain and offset")
        operation = Norm(source=source, groups=module.num_groups, eps=module.eps, silu=silu, condition=condition)
        return self.emit(operation, {"gain": module.weight, "offset": module.bias})

    def embed(self, module: Any) -> None:  # noqa: ANN401
        """Translates the embedding of gamma."""
        if self._find(EMBEDDINGS, module) and module.dense0.in_features != module.n_frequencies + module.n_constant:
            raise NelboError(f"freeze: {self._name(module)} reads something else than gamma")
        self.embedding = Embedding(low=module.gamma_range[0], high=module.gamma_range[1])
        half = module.n_frequencies // 2
        spacing = torch.log(torch.tensor(1e4, dtype=torch.float64)) / (half - 1)
        self.keep("embedding.rates", 1000 * torch.exp(-spacing * torch.arange(half, dtype=torch.float64)))
        for name in ("dense0", "dense1"):
            layer = getattr(module, name)
            self.keep(f"embedding.{name}.weight", layer.weight)
            self.keep(f"embedding.{name}.bias", layer.bias)
        weight = self.tensors["embedding.dense0.weight"]  # The constant inputs are zeros: their weights do nothing.
        self.tensors["embedding.dense0.weight"] = weight[:, : module.n_frequencies]

    def tell_nothing(self, module: Any) -> None:  # noqa: ANN401
        """Translates what the network is told of an image as it is: a constant, which joins the embedding's bias."""
        bias = self.tensors["embedding.dense1.bias"]
        for i, table in enumerate(self._find(CONDITIONS, module)(module)):
            self.keep(f"told.{i}", table.weight)
            bias = bias + self.tensors.pop(f"told.{i}")[0]
        self.tensors["embedding.dense1.bias"] = bias

    def _find(self, table: Mapping[str, Callable[..., Any]], module: nn.Module) -> Callable[..., Any]:
        name = f"{type(module).__module__}.{type(module).__qualname__}"
        if name not in table:
            raise NelboError(f"freeze: the exact executor has no operation for {name} ({self._name(module)})")
        return table[name]

    def _name(self, module: nn.Module) -> str:
        return self._names.get(id(module)) or "the network"


def _is_plain(conv: nn.Conv2d) -> bool:
    is_square = all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding))
    has_zeros = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return is_square and has_zeros and conv.groups == 1 and conv.dilation == (1, 1)


def _stem(b: Builder, module: Any) -> int:  # noqa: ANN401
    source = b.emit(Features(exponents=module.fourier))
    return b.conv(module, b.emit(Unshuffle(source=source, factor=module.patch)) if module.patch > 1 else source)


def _residual_block(b: Builder, module: Any, source: int) -> int:  # noqa: ANN401
    h = b.conv(module.conv1, b.norm(module.norm1, source, silu=True))
    h = b.norm(module.norm2, h, silu=True, condition="modulate" if module.modulated else "before")
    b.keep(f"{h}.condition.weight", module.cond_proj.weight)
    return b.emit(Add(left=b.block(module.shortcut, source), right=b.conv(module.conv2, h)))


def _attention(b: Builder, module: Any, source: int) -> int:  # noqa: ANN401
    heads = b.conv(module.qkv, b.norm(module.norm, source, silu=False))
    attended = b.emit(Attend(source=heads, heads=module.n_heads))
    return b.emit(Add(left=source, right=b.conv(module.proj_out, attended)))


def _identity(b: Builder, module: Any, source: int) -> int:  # noqa: ANN401
    return source


def _stage(b: Builder, module: Any, h: int) -> int:  # noqa: ANN401
    for block, attention in zip(module.blocks, module.attentions, strict=True):
        h = b.block(attention, b.block(block, h))
    return h


def _unet(b: Builder, net: Any) -> bool:  # noqa: ANN401
    b.embed(net.embedding)
    b.tell_nothing(net.condition)
    skips = [_stem(b, net.conv_in)]
    for block, attention in zip(net.down, net.down_attention, strict=True):
        skips.append(b.block(attention, b.block(block, skips[-1])))
    h = b.block(net.middle_2, b.block(net.middle_attention, b.block(net.middle_1, skips[-1])))
    for block, attention in zip(net.up, net.up_attention, strict=True):
        h = b.block(attention, b.block(block, b.emit(Concat(left=h, right=skips.pop()))))
    b.conv(net.conv_out, b.norm(net.norm_out, h, silu=True))
    return True


def _unet_multiscale(b: Builder, net: Any) -> bool:  # noqa: ANN401
    def between(h: int, level: int) -> int:
        h = b.block(net.down[level], h)
        if level < len(net.shrink):
            coarse = between(b.conv(net.shrink[level], h), level + 1)
            h = b.emit(Add(left=h, right=b.emit(Shuffle(source=b.conv(net.grow[level], coarse), factor=2))))
        return b.block(net.up[level], h)

    b.embed(net.embedding)
    b.tell_nothing(net.condition)
    output = b.conv(net.conv_out, b.norm(net.norm_out, between(_stem(b, net.conv_in), 0), silu=True))
    if net.patch > 1:
        b.emit(Shuffle(source=output, factor=net.patch))
    return False


EMBEDDINGS: dict[str, Callable[..., Any]] = {"nelbo.nets.layers.GammaEmbedding": Builder.embed}
CONDITIONS: dict[str, Callable[..., Any]] = {"nelbo.nets.layers.ConditionEmbedding": lambda module: module.codes}
NETWORKS: dict[str, Callable[..., bool]] = {
    "nelbo.nets.unet.UNet": _unet,
    "nelbo.nets.unet_multiscale.UNetMultiscale": _unet_multiscale,
}
BLOCKS: dict[str, Callable[..., int]] = {
    "nelbo.nets.layers.ResidualBlock": _residual_block,
    "nelbo.nets.unet_multiscale.Stage": _stage,
    "nelbo.nets.attention.SelfAttention": _attention,
    "torch.nn.modules.conv.Conv2d": Builder.conv,
    "torch.nn.modules.linear.Identity": _identity,
}
