"""``nelbo import``: turns a checkpoint of another program into a model folder."""

from pathlib import Path
from typing import Annotated, Literal

import tyro


def import_model(
    kind: Annotated[Literal["official-vdm"], tyro.conf.Positional],
    checkpoint: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    size: int = 32,
    gamma_range: tuple[float, float] = (-13.3, 5.0),
    force: Annotated[bool, tyro.conf.arg(aliases=["-f"])] = False,
) -> None:
    """Turns a checkpoint of another program into a model folder.

    Args:
        kind: official-vdm: a Flax checkpoint of the VDM paper's code (its averaged weights are taken).
        checkpoint: The checkpoint file.
        out: The model folder to write.
        size: Height and width of the images, which such a checkpoint does not hold.
        gamma_range: gamma_min and gamma_max of its configuration, which it does not hold either.
        force: Replace the folder if it exists.
    """
    from nelbo.errors import NelboError
    from nelbo.interop.official_vdm import import_official_vdm

    if out.exists() and not force:
        raise NelboError(f"{out} exists: choose another folder, or replace it with --force")
    import_official_vdm(checkpoint, out, size, gamma_range)
    print(f"model: {out}")
