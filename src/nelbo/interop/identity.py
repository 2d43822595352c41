"""What a function is, as far as can be told: so that a table made for one is not used with another."""

import functools
import hashlib
import inspect
import types
from collections.abc import Iterator

import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def identity_of(function: object) -> str:
    """Returns the SHA-256 of a function's code and of its variables, as hexadecimal digits.

    The variables are its defaults, its closure, the globals that it names, and an object's attributes. Of these,
    networks count by their layers' settings and their weights, tensors by their values, numbers and texts as they
    are, and anything else by its type and name: what is reached through other functions or objects is not seen, nor is
    the code of a network.
    The weights of a function that is itself a network are left to the model's fingerprint.
    """
    digest = hashlib.sha256()
    for part in _settings(function) if isinstance(function, nn.Module) else _parts(function):
        digest.update(part + b"\0")
    return digest.hexdigest()


def _parts(function: object) -> Iterator[bytes]:
    yield getattr(function, "__qualname__", type(function).__qualname__).encode()
    if isinstance(function, functools.partial):
        yield from _parts(function.func)
        variables = {**dict(enumerate(function.args)), **function.keywords}
    elif isinstance(function, types.MethodType):
        yield from _parts(function.__self__)
        variables = {}
    elif isinstance(function, types.FunctionType):
        yield from _code(function.__code__)
        found = inspect.getclosurevars(function)
        variables = {**found.globals, **found.nonlocals, "": function.__defaults__, **(function.__kwdefaults__ or {})}
    else:
        variables = vars(function) if hasattr(function, "__dict__") else {}
    for name, value in variables.items():
        yield str(name).encode()
        yield from _value(value)


def _code(code: types.CodeType) -> Iterator[bytes]:
    yield code.co_code
    for constant in code.co_consts:
        yield from _code(constant) if isinstance(constant, types.CodeType) else _value(constant)


def _value(value: object) -> Iterator[bytes]:
    yield type(value).__qualname__.encode()
    if isinstance(value, nn.Module):
        yield from _settings(value)
        for tensor in value.state_dict().values():
            yield from _value(tensor)
    elif isinstance(value, Tensor):
        yield f"{tuple(value.shape)} {value.dtype}".encode()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, _PLAIN):
        yield repr(value).encode()
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _value(each)
    else:
        yield getattr(value, "__qualname__", "").encode()


def _settings(net: nn.Module) -> Iterator[bytes]:
    """Yields the class of each layer, and what its attributes say of it in numbers and texts."""
    for name, layer in net.named_modules():
        settings = {k: v for k, v in sorted(vars(layer).items()) if k != "training" and isinstance(v, (*_PLAIN, tuple))}
        yield f"{name} {type(layer).__qualname__} {settings}".encode()
