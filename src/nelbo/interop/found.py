"""The networks inside a function: so that they are evaluated, moved, and told apart with the model made of it.

A function reaches a network through its closure, its defaults, the globals that its code loads, ``functools.partial``,
a bound method, or the attributes and containers of an object, however nested. Code of installed packages is not
searched for globals, and names that are only looked up as text are not found.
"""

import dis
import functools
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

_DEPTH = 12
_FOLDERS = (*(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), Path(__file__).parents[1])
_LIBRARIES = tuple(str(Path(folder).resolve()) for folder in _FOLDERS)
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type, types.ModuleType, types.BuiltinFunctionType)
_OWN = frozenset(vars(nn.Module()))  # What every module has among its attributes.


def found_in(function: object) -> tuple[list[nn.Module], list[Tensor]]:
    """Returns the outermost networks that a function reaches, and its other tensors and arrays, as they are found."""
    reached = list(_reached(function))
    modules = [value for value in reached if isinstance(value, nn.Module)]
    inner = {id(sub) for module in modules for sub in module.modules() if sub is not module}
    held = {id(t) for module in modules for t in (*module.parameters(), *module.buffers())}
    tensors = [value for value in reached if isinstance(value, Tensor) and id(value) not in held]
    arrays = [
        torch.from_numpy(value) for value in reached if isinstance(value, np.ndarray) and value.dtype.kind in "fiu"
    ]
    return [module for module in modules if id(module) not in inner], tensors + arrays


def _reached(root: object) -> Iterator[object]:
    """Yields every object that is reached from another, depth first, each once."""
    seen: dict[int, object] = {}  # Kept alive, so that no other object takes an id.

    def visit(value: object, depth: int) -> Iterator[object]:
        if isinstance(value, _PLAIN) or id(value) in seen or depth > _DEPTH:
            return
        seen[id(value)] = value
        yield value
        for child in _children(value):
            yield from visit(child, depth + 1)

    return visit(root, 0)


def _children(value: object) -> Iterator[object]:
    match value:
        case functools.partial():
            yield from (value.func, *value.args, *value.keywords.values())
        case types.MethodType():
            yield from (value.__self__, value.__func__)
        case types.FunctionType():
            yield from _variables(value)
        case dict():
            yield from value.values()
        case list() | tuple() | set() | frozenset():
            yield from value
        case Tensor() | np.ndarray():
            return
        case nn.Module():
            yield from value.children()
            yield from (item for name, item in vars(value).items() if name not in _OWN)
            yield from _methods(type(value))
        case _:
            yield from getattr(value, "__dict__", {}).values()
            yield from _methods(type(value))


def _variables(function: types.FunctionType) -> Iterator[object]:
    """Yields the values of a function's closure, defaults, attributes and, outside of libraries, globals."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # Not assigned yet.
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()
    if not _is_library(function.__code__.co_filename):
        yield from (function.__globals__[name] for name in _globals(function.__code__) if name in function.__globals__)


def _globals(code: types.CodeType) -> Iterator[str]:
    """Yields the names of globals that a function's code loads, with the functions inside it."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(constant)


def _methods(cls: type) -> Iterator[object]:
    """Yields what the user's own classes define, whose methods may use globals."""
    for base in cls.__mro__:
        file = getattr(sys.modules.get(base.__module__), "__file__", None)
        if base is not object and (file is None or not _is_library(file)):
            yield from vars(base).values()


def _is_library(file: str) -> bool:
    return str(Path(file).resolve()).startswith(_LIBRARIES)
