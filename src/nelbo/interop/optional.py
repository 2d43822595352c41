"""Packages that only some models need."""

from importlib import import_module
from types import ModuleType

from nelbo.errors import NelboError


def installed(package: str, extra: str) -> ModuleType:
    """Returns an optional package.

    Args:
        package: Its name.
        extra: Which extra of nelbo brings it.

    Raises:
        NelboError: If it is not installed; the message says how to.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise NelboError(f"this needs {package} ({error}): pip install 'nelbo[{extra}]'") from None
