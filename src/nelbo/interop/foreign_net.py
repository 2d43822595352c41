"""A function in the place of a network: called as it was trained, its own networks moving with the model."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nelbo.errors import NelboError
from nelbo.interop.found import found_in

_LAYERS = {
    nn.functional.conv1d,
    nn.functional.conv2d,
    nn.functional.conv3d,
    nn.functional.linear,
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
}
_PLAIN = (bool, int, float, str, type(None), tuple)


@dataclass(frozen=True)
class Classes:
    r"""What a function is told of an image's class.

    Attributes:
        n: Classes of the model; 0 of an unconditional one.
        null: The label that stands for no class. An unconditional model of a function with labels always gives it.
        guidance: w, with which predictions are :math:`f(\varnothing) + w\,(f(c) - f(\varnothing))`; None is w = 1.
    """

    n: int = 0
    null: int | None = None
    guidance: float | None = None

    @property
    def is_told(self) -> bool:
        """Whether the function takes labels."""
        return self.n > 0 or self.null is not None


def classes_of(n: Any, null: Any, guidance: Any) -> Classes:  # noqa: ANN401
    """Returns what a function is told of classes, as a user says it.

    Raises:
        NelboError: If a number is none, or guidance lacks one of the two predictions that it mixes.
    """
    if not isinstance(n, int) or n < 0:
        raise NelboError(f"n_classes is the number of classes, 0 for none, got {n!r:.60}")
    if null is not None and not isinstance(null, int):
        raise NelboError(f"null_class is the label that stands for no class, a number, got {null!r:.60}")
    if guidance is not None and not isinstance(guidance, Real):
        raise NelboError(f"guidance is a number, got {guidance!r:.60}")
    if guidance is not None and (null is None or not n):
        raise NelboError("guidance= mixes the predictions of a class and of none: give n_classes= and null_class=")
    return Classes(n, null, float(guidance) if guidance is not None else None)


class ForeignNet(nn.Module):
    """A function of latents, times and perhaps labels, with the networks that it reaches as its children.

    Args:
        function: The function, or a network.
        n_channels: Channels of the image; the function may return more, those of its variances.
        classes: What it is told of classes.

    Raises:
        NelboError: If it is no function, or does not take as many arguments as it will be given.
    """

    def __init__(self, function: Any, n_channels: int, classes: Classes) -> None:  # noqa: ANN401
        super().__init__()
        check_arguments(function, classes)
        self.function = (function,)  # In a tuple, or a network would be registered twice.
        self.n_channels, self.classes = n_channels, classes
        modules, self.tensors = found_in(function)
        _check_filled(modules)
        self.found = nn.ModuleList(modules)

    def forward(
        self, z: Float[Tensor, "b c h w"], t: Shaped[Tensor, " b"], labels: Int[Tensor, " b"] | None
    ) -> Float[Tensor, "b o h w"]:
        """Returns the function's output at each latent.

        Raises:
            NelboError: If it fails, or returns something else than a tensor of as many axes.
        """
        with first_layer_in_float32(z.device.type):
            if labels is None or self.classes.guidance is None:
                return self._call(z, t, self._given(labels, z))
            output, null = self._call(z, t, labels), self._call(z, t, self._given(None, z))
            n = self.n_channels
            guided = null[:, :n] + self.classes.guidance * (output[:, :n] - null[:, :n])
            return torch.cat([guided, output[:, n:]], dim=1)

    def _given(self, labels: Tensor | None, z: Tensor) -> Tensor | None:
        null = self.classes.null
        return labels if labels is not None or null is None else torch.full((len(z),), null, device=z.device)

    def _call(self, z: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        function, arguments = self.function[0], (z, t) if labels is None else (z, t, labels)
        try:
            output = function(*arguments)
        except (NelboError, MemoryError):
            raise
        except Exception as error:
            if "memory" in str(error):  # Which the command line tells apart.
                raise
            problem = f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
            raise NelboError(f"the function fails on latents of shape {tuple(z.shape)}: {problem}") from error
        if not isinstance(output, Tensor) or output.ndim != 4:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            cure = "" if isinstance(output, Tensor) else ": wrap it to return the tensor alone, as net(x, t).sample"
            raise NelboError(f"the function must return a tensor of shape (b, c, h, w), got {got}{cure}")
        return output

    def identity(self) -> str:
        """Returns a digest of what weights do not say: the layers' settings, and tensors outside of the networks."""
        digest = hashlib.sha256()
        for name, layer in self.found.named_modules():
            settings = {k: v for k, v in sorted(vars(layer).items()) if k != "training" and isinstance(v, _PLAIN)}
            digest.update(f"{name} {type(layer).__qualname__} {settings}".encode())
        for tensor in self.tensors:
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def settings_identity(settings: list[Any], net: ForeignNet, name: str | None) -> str:
    """Returns what tells a model from others of the same weights: its settings, and its name or its networks' own."""
    return json.dumps([*settings, vars(net.classes), net.identity() if name is None else f"name {name}"])


def first_layer_in_float32(device: str) -> AbstractContextManager[object]:
    """Returns the context in which the first layer over an image runs in float32, whatever the autocast."""
    return FirstLayer(device) if torch.is_autocast_enabled(device) else nullcontext()


class FirstLayer(TorchFunctionMode):
    """Runs the first convolution or linear layer over an image in float32.

    bfloat16 keeps 8 bits of a latent, and at low noise the bound is about the bits below. Layers over vectors, which
    embed times, do not count.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.is_done = device, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Calls a function of torch, of the first layer with autocast off."""
        if self.is_done or func not in _LAYERS or not args or args[0].ndim < 3:
            return func(*args, **(kwargs or {}))
        self.is_done = True
        with torch.autocast(self.device, enabled=False):
            return func(args[0].float(), *args[1:], **(kwargs or {}))


def _check_filled(modules: Iterable[nn.Module]) -> None:
    """Raises NelboError if a network has weights without values."""
    for module in modules:
        empty = [name for name, tensor in chain(module.named_parameters(), module.named_buffers()) if tensor.is_meta]
        if empty:
            raise NelboError(
                f"the network's {empty[0]} is on torch's device 'meta', so it has no values: load its weights, with "
                "load_state_dict(..., assign=True), before it is wrapped"
            )


def check_arguments(function: object, classes: Classes) -> None:
    """Raises NelboError if a function cannot be called as it will be: with latents, times and perhaps labels."""
    if not callable(function):
        raise NelboError(f"expected a function of (x, t) or a network, got {type(function).__name__}")
    called = function.forward if isinstance(function, nn.Module) else function
    if _takes(called, 3 if classes.is_told else 2):
        return
    if classes.is_told:
        raise NelboError("with classes the function is called as f(x, t, labels), and it takes no third argument")
    if _takes(called, 3):
        raise NelboError(
            "the function takes a third argument: if it is the label, give n_classes=, or null_class= for a model "
            "without classes; else wrap it in a function of (x, t)"
        )
    raise NelboError("the function is called as f(x, t), and it does not take these two arguments")


def _takes(function: Callable[..., object], n_arguments: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * n_arguments)
    except TypeError:
        return False
    except ValueError:  # A function without a signature.
        return True
    return True
