"""Error tables as files: safetensors, with the subject and the kinds of exits as JSON in the header."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from nelbo.atomic import new_file
from nelbo.errors import NelboError
from nelbo.exit import Exit
from nelbo.tensor_file import read_tensors
from nelbo.time_schedule.errors import ErrorTable, Subject

FORMAT = "nelbo error table 1"
_TENSORS = ("gammas", "n_images", "square", "decoder", "error", "covariance", "exit_levels")


def save_table(table: ErrorTable, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes an error table, whole or not at all.

    Args:
        table: The table.
        path: The file.
        dtype: What the covariances are stored in, as fractions of the largest of their level; everything else stays in
            float64.
    """
    tensors: dict[str, Tensor] = {name: getattr(table, name).contiguous() for name in _TENSORS}
    tensors["largest"] = table.covariance.abs().amax((1, 2, 3)).clamp(min=1e-300)
    tensors["covariance"] = (table.covariance / _per_level(tensors["largest"])).to(dtype).contiguous()
    if table.ranges is not None:
        tensors["ranges"] = table.ranges
    for kind, exits in table.exits.items():
        tensors |= _exit_tensors(kind, exits) | {f"{kind}.losses": table.exit_losses[kind]}
    header = {
        "format": FORMAT,
        "subject": json.dumps(asdict(table.subject)),
        "n_decoded": str(table.n_decoded),
        "exits": json.dumps(list(table.exits)),
    }
    if table.images is not None:
        header["images"] = table.images
    with new_file(path) as temporary:
        save_file(tensors, temporary, header)


def load_table(path: Path) -> ErrorTable:
    """Reads an error table.

    Raises:
        NelboError: If the file is missing, damaged or something else.
    """
    if not path.is_file():
        raise NelboError(f"no error table at {path}: make one with `nelbo schedule MODEL --data IMAGES --out FOLDER`")
    header, tensors = read_tensors(path, "{path} is damaged or no error table ({error})")
    if header.get("format") != FORMAT:
        raise NelboError(f"{path} is no error table of this version of nelbo ({header.get('format', 'no format')!r})")
    try:
        return _table(header, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise NelboError(f"{path} is damaged: {type(error).__name__} {error}") from None


def _table(header: dict[str, str], tensors: dict[str, Tensor]) -> ErrorTable:
    fields = json.loads(header["subject"])
    fields["image_shape"] = tuple(fields["image_shape"])
    parts = {name: tensors[name] for name in _TENSORS}
    parts["covariance"] = parts["covariance"].double() * _per_level(tensors["largest"])
    kinds = json.loads(header["exits"])
    return ErrorTable(
        subject=Subject(**fields),
        n_decoded=int(header["n_decoded"]),
        exits={kind: _exits(kind, tensors) for kind in kinds},
        exit_losses={kind: tensors[f"{kind}.losses"] for kind in kinds},
        ranges=tensors.get("ranges"),
        images=header.get("images"),
        **parts,
    )


def _per_level(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _exit_tensors(kind: str, exits: list[Exit]) -> dict[str, Tensor]:
    if not exits:
        return {}
    return {
        f"{kind}.weights": torch.stack([exit.weights for exit in exits]),
        f"{kind}.scales": torch.stack([exit.scales for exit in exits]),
        f"{kind}.rounding": torch.tensor([exit.rounding for exit in exits], dtype=torch.float64),
    }


def _exits(kind: str, tensors: dict[str, Tensor]) -> list[Exit]:
    if f"{kind}.weights" not in tensors:
        return []
    names = (f"{kind}.weights", f"{kind}.scales", f"{kind}.rounding")
    columns = zip(*(tensors[name] for name in names), strict=True)
    return [Exit(kind, weights, scales, rounding.item()) for weights, scales, rounding in columns]
