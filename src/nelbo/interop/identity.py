"""What a function is, as far as Python can tell: so that a table made for one is not used with another."""

import functools
import hashlib
import types
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def identity_of(function: object) -> str:
    """Returns the SHA-256 of a function's code and of what it reaches, as hexadecimal digits.

    It reaches its closure, its defaults and the globals it names: networks, tensors, arrays, numbers, texts,
    containers of these, and functions and objects of its own Python module, which reach things themselves. Of anything
    else the type counts alone, of functions of other modules the name. The code is that of the running version of
    Python. Networks count by their settings, that is by their layers' attributes that are numbers or texts, and by
    their weights; the weights of a function that is itself a network are left to the model's fingerprint.
    """
    home = function
    while isinstance(home, functools.partial):
        home = home.func
    value = _settings(function) if isinstance(function, nn.Module) else function
    digest = hashlib.sha256()
    for part in _parts(value, getattr(home, "__module__", None), {}):
        digest.update(part + b"\0")
    return digest.hexdigest()


def _parts(value: object, module: str | None, seen: dict[int, object]) -> Iterator[bytes]:
    """Yields what tells a value from others; of one that was seen before, its type."""
    if isinstance(value, _PLAIN):
        yield repr(value).encode()
        return
    yield type(value).__qualname__.encode()
    if id(value) in seen:
        return
    seen[id(value)] = value  # Kept, so that no other value has its id meanwhile.
    if isinstance(value, Tensor | np.ndarray):
        yield from _numbers(value)
    else:
        for each in _inside(value, module):
            yield from _parts(each, module, seen)


def _inside(value: object, module: str | None) -> list[object]:
    """Returns the values that make up another, in an order that depends on nothing else."""
    if isinstance(value, nn.Module):
        return [_settings(value), dict(sorted(value.state_dict().items()))]
    if isinstance(value, types.FunctionType):
        is_own = value.__module__ == module
        return _of_function(value) if is_own else [value.__module__, value.__qualname__]
    if isinstance(value, types.CodeType):
        return [value.co_code, value.co_names, value.co_varnames, value.co_freevars, value.co_consts]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.BuiltinFunctionType | types.ModuleType | type):
        return [value.__name__]
    if isinstance(value, dict):
        return [each for pair in value.items() for each in pair]
    if isinstance(value, set | frozenset):
        return [*sorted(map(repr, value))]
    if isinstance(value, list | tuple):
        return [*value]
    return [vars(value), vars(type(value)).get("__call__")] if _is_own_object(value, module) else []


def _is_own_object(value: object, module: str | None) -> bool:
    return type(value).__module__ == module and hasattr(value, "__dict__")


def _of_function(function: types.FunctionType) -> list[object]:
    return [function.__code__, function.__defaults__, function.__kwdefaults__, *_reached(function)]


def _reached(function: types.FunctionType) -> Iterator[object]:
    """Yields what a function finds in its closure and among its globals; what is not there yet is left out."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            continue
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield function.__globals__[name]


def _names(code: types.CodeType) -> list[str]:
    """Returns the names of globals and attributes in a function and in those within it."""
    within = [name for each in code.co_consts if isinstance(each, types.CodeType) for name in _names(each)]
    return [*code.co_names, *within]


def _settings(net: nn.Module) -> list[object]:
    """Returns the class of each layer and what public attributes say of it in numbers and texts."""
    return [
        (
            name,
            type(layer).__qualname__,
            {key: each for key, each in sorted(vars(layer).items()) if _is_setting(key, each)},
        )
        for name, layer in net.named_modules()
    ]


def _is_setting(name: str, value: object) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return name[0] != "_" and name != "training" and all(isinstance(each, _PLAIN) for each in values)


def _numbers(values: Tensor | np.ndarray) -> Iterator[bytes]:
    """Yields shape, type and values of those that lie in memory as numbers."""
    yield f"{tuple(values.shape)} {values.dtype}".encode()
    if isinstance(values, np.ndarray):
        if not values.dtype.hasobject:
            yield values.tobytes()
    elif values.layout == torch.strided and not values.is_meta and not values.is_quantized:
        yield values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
