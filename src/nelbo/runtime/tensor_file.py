"""Safetensors files with what they are in the header."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from nelbo.errors import NelboError


def read_tensors(path: str | Path, problem: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Returns the header and the tensors of a safetensors file.

    Args:
        path: The file.
        problem: What to say where it is no such file, with places for ``{path}`` and ``{error}``.

    Raises:
        NelboError: If the file is missing, damaged or something else.
    """
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (OSError, SafetensorError) as error:
        raise NelboError(problem.format(path=path, error=error)) from None
