"""A model that a function in a Python file makes, named as ``FILE.py:FUNCTION``."""

import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from nelbo.errors import NelboError
from nelbo.models.interface import DiffusionModel

_NAME = re.compile(r"(?P<file>.+\.py):(?P<function>[^\W\d]\w*)")
HINT = "FILE.py:FUNCTION, a function of no arguments that returns nelbo.from_callable(...) or nelbo.from_denoiser(...)"


def is_python_file(name: str | Path) -> bool:
    """Returns whether a name is meant to be that of a function in a Python file."""
    return _NAME.fullmatch(str(name)) is not None or str(name).endswith(".py")


def load_from_function(name: str | Path) -> DiffusionModel:
    """Returns the model that a function in a Python file makes; the file is run, as any program is.

    Args:
        name: The file and the function, ``path/to/file.py:make_model``.

    Raises:
        NelboError: If there is no such file or function, one of them fails, or what it returns is no model.
    """
    match = _NAME.fullmatch(str(name))
    if match is None:
        raise NelboError(f"{name} does not say which function of the file makes the model: give {HINT}")
    path = Path(match["file"])
    if not path.is_file():
        raise NelboError(f"no file {path}: a model is named by {HINT}")
    with _beside(path):
        module = _run(path, path, lambda: _module(path))
        function = getattr(module, match["function"], None)
        if not callable(function):
            there = [key for key, value in vars(module).items() if callable(value) and _is_of(module, value)]
            raise NelboError(f"{path} has no function {match['function']!r}; it has {', '.join(there) or 'none'}")
        model = _run(name, path, function)
    if not isinstance(model, DiffusionModel):
        raise NelboError(
            f"{name} returns {_described(model)}, expected a model: wrap it with nelbo.from_callable(...), of a DDPM, "
            "or nelbo.from_denoiser(...), of continuous noise levels"
        )
    return model


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_nelbo_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Where its own classes are looked up.
    spec.loader.exec_module(module)
    return module


def _run(name: str | Path, path: Path, act: Callable[[], object]) -> object:
    """Returns what a part of the user's file does; what it raises becomes one line that says where."""
    try:
        return act()
    except NelboError as error:
        raise NelboError(f"{name}: {error}") from error
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        if isinstance(error, SyntaxError):
            lines = [error.lineno]
        where = f" in line {lines[-1]}" if lines else ""
        said = " ".join(str(error).split())
        raise NelboError(f"{name} fails{where}: {type(error).__name__}{f': {said:.200}' if said else ''}") from error


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """Lets a file import those beside it, as Python does for a program."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _is_of(module: object, value: object) -> bool:
    return getattr(value, "__module__", None) == getattr(module, "__name__", "")


def _described(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
