"""``nelbo info``: what a model is, or what a table or schedule is of."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo.time_schedule.error_table import ErrorTable
    from nelbo.time_schedule.schedule import TimeSchedule


def info(model: Annotated[str | None, tyro.conf.Positional] = None) -> None:
    """Prints what is understood of a model, with warnings; without a model, which ones come with the package.

    Args:
        model: A bundled model's name, a model folder or one of diffusers, an id on the hub, FILE.py:FUNCTION; or the
            file of an error table or a time schedule.
    """
    from nelbo.runtime.bundled import bundled_images, bundled_models

    if model is None:
        print(f"models  {', '.join(bundled_models())}\nimages  {', '.join(bundled_images())}")
        return
    if Path(model).suffix == ".safetensors" and Path(model).is_file():
        _print_file(Path(model))
        return

    from nelbo.interop.any_model import load
    from nelbo.interop.ddpm import DDPM
    from nelbo.interop.described import described, doubts
    from nelbo.models.vdm import VDM

    loaded = load(model)
    _print_lines(described(loaded))
    if isinstance(loaded, VDM | DDPM):
        print(loaded.config.model_dump_json(indent=2))
    for doubt in doubts(loaded):
        print(f"warning: {doubt}")


def _print_file(path: Path) -> None:
    """Prints what an error table or a time schedule is."""
    from nelbo.runtime.tensor_file import read_tensors
    from nelbo.time_schedule import error_table, schedule

    header, _ = read_tensors(path, "{path} is damaged or no file of nelbo's ({error})")
    if header.get("format") == error_table.FORMAT:
        table = error_table.load_table(path)
        _print_lines(_of_table(table))
        if doubt := error_table.doubt(table):
            print(f"warning: {doubt}")
    elif header.get("format") == schedule.FORMAT:
        _print_lines(_of_schedule(schedule.TimeSchedule.load(path)))
    else:
        raise NelboError(
            f"{path} is neither an error table nor a time schedule: give a model's folder, not its weights"
        )


def _of_table(table: "ErrorTable") -> list[tuple[str, str]]:
    return [
        ("error table", f"of model {table.subject.fingerprint[:12]}"),
        ("images", f"{int(table.n_images.min())} of shape {table.subject.image_shape}"),
        ("levels", f"{len(table.gammas)}, gamma {table.gammas[0].item():.4f} to {table.gammas[-1].item():.4f}"),
        ("precision", f"{table.subject.precision}, seed {table.subject.seed}"),
        ("exits", ", ".join(table.exits) or "none but the decoder"),
    ]


def _of_schedule(found: "TimeSchedule") -> list[tuple[str, str]]:
    lines = [
        ("time schedule", f"of model {found.fingerprint[:12]}"),
        ("steps", f"{found.n_steps}, gamma {found.gammas[0].item():.4f} to {found.gammas[-1].item():.4f}"),
        ("kernel", found.reverse),
        ("last step", "the model's decoder" if found.exit is None else f"the {found.exit.kind} exit"),
    ]
    if found.prediction is None:
        return lines
    return [*lines, ("predicted", f"{found.bpd:.4f} ± {found.prediction_error:.4f} bits per dimension")]


def _print_lines(lines: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:{width}}  {value}")
