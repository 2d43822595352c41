"""Frozen models: those that come with the package, and those that were made on this machine, kept in a cache.

Freezing measures ranges in floating point, so two machines may freeze one model differently. Archives name the frozen
model's SHA-256, and decoding on another machine needs that very file. Bundled models bring theirs; ``nelbo freeze``
writes those of other models.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from nelbo.errors import NelboError
from nelbo.integer.arithmetic import EXECUTOR_VERSION
from nelbo.integer.frozen_model import FrozenModel
from nelbo.runtime.bundled import bundled_models

if TYPE_CHECKING:
    from nelbo.models.interface import DiffusionModel

FROZEN = "frozen.safetensors"
_N_IMAGES = 32


def cache_folder() -> Path:
    """Returns where frozen models are kept on this machine."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path.home() / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or base) / "nelbo" / "frozen"


def frozen_of(model: "DiffusionModel | None") -> FrozenModel:
    """Returns a model in integers: the bundled one, the one in the cache, or one that is frozen now and kept there.

    Raises:
        NelboError: If there is no model, it cannot be frozen, or the cache cannot be written.
    """
    if model is None:
        raise NelboError("the codec needs a model or a frozen model: give one")
    from nelbo.integer.freeze import choose_images, freeze, model_sha256  # Frozen files are read without models.

    digest = model_sha256(model)
    kept = _place_of(digest)
    if (found := _made_of(digest, [*_bundled(), kept])) is not None:
        return found
    frozen = freeze(model, choose_images(model, None, _N_IMAGES), "samples of the model")
    if (found := _made_of(digest, [kept])) is not None:
        return found  # Another process was faster, and archives may name its file by now.
    frozen.save(kept)
    return frozen


def kept_file(frozen: FrozenModel) -> Path | None:
    """Returns the file of the cache that holds a frozen model, which decoders elsewhere need; None if none does."""
    path = _place_of(frozen.header.model_sha256)
    return path if _sha256_of(path) == frozen.fingerprint else None


def find_frozen(sha256: str) -> FrozenModel | None:
    """Returns the frozen model with a SHA-256, of those that come with the package and those in the cache."""
    paths = (*_bundled(), *sorted(cache_folder().glob("*.safetensors")))
    candidates = (_loaded(path) for path in paths if _sha256_of(path) == sha256)
    return next((found for found in candidates if found is not None), None)


def _bundled() -> list[Path]:
    return [path for folder in bundled_models().values() if (path := folder / FROZEN).is_file()]


def _place_of(digest: str) -> Path:
    return cache_folder() / f"{digest}-{EXECUTOR_VERSION}.safetensors"


def _made_of(digest: str, paths: Sequence[Path]) -> FrozenModel | None:
    """Returns the first frozen model among some files that was made of a model, None if none was."""
    candidates = (found for path in paths if (found := _loaded(path)) is not None)
    return next((found for found in candidates if found.header.model_sha256 == digest), None)


def _loaded(path: Path) -> FrozenModel | None:
    """Returns the frozen model of a file, None if it is missing or damaged."""
    try:
        return FrozenModel.load(path)
    except NelboError:
        return None


def _sha256_of(path: Path) -> str | None:
    """Returns the SHA-256 that a frozen model's file states."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
