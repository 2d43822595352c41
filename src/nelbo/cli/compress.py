"""``nelbo compress``: images into an archive."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo.codec.codec import Codec
    from nelbo.codec.image_files import FileSource
    from nelbo.codec.layout import Choice
    from nelbo.time_schedule.schedule import TimeSchedule

Flag = Annotated[bool, tyro.conf.arg(aliases=["-f"])]
Quiet = Annotated[bool, tyro.conf.arg(aliases=["-q"])]
Out = Annotated[Path, tyro.conf.arg(aliases=["-o"])]


def compress(
    images: Annotated[tuple[str, ...], tyro.conf.Positional],
    out: Out,
    model: str = "cifar10-small",
    frozen: Path | None = None,
    steps: str = "16",
    chain: int = 256,
    lanes: int = 16,
    verify: bool = True,
    force: Flag = False,
    rm: bool = False,
    quiet: Quiet = False,
) -> None:
    """Compresses images losslessly, by bits-back coding with a diffusion model.

    Image files and folders keep their names, sizes and modes; the images of data sets (.npz, .npy, .parquet, .zip,
    idx) become PNG files in a folder. What the model does not suit is kept as JPEG XL. Metadata is not kept.
    Started under torchrun, processes share the chains, for the very same archive.

    Args:
        images: Image files, folders, data sets; - reads an image file from standard input.
        out: The archive to write, - for standard output.
        model: A bundled model's name or a model folder.
        frozen: The file that `nelbo freeze` made of the model; bundled models come with theirs.
        steps: Network calls an image, of the plans that come with the model, or a time schedule's file.
        chain: Images a chain: more make a smaller file, fewer lose less to a damaged byte.
        lanes: Chains coded side by side.
        verify: Decode everything and compare before finishing.
        force: Overwrite an archive that is there.
        rm: Remove the image files when the archive is written; data sets, which may hold more, are refused.
        quiet: No progress, no summary.
    """
    from nelbo.cli.archive_files import check_free
    from nelbo.codec.image_files import open_source
    from nelbo.runtime.agreement import n_processes

    def open_images() -> "FileSource":
        check_free(out, force)
        if n_processes() > 1 and "-" in images:
            raise NelboError("several processes cannot share standard input: give image files instead of -")
        source = open_source([Path(each) for each in images], lambda: sys.stdin.buffer.read())
        if out.is_file() and any(path.samefile(out) for path in (*source.files, *source.data_sets)):
            raise NelboError(f"{out} is among what is compressed: choose another name for the archive")
        if rm and source.data_sets:
            raise NelboError(f"--rm removes image files, and {source.data_sets[0]} may hold more: leave --rm out")
        return source

    def make_codec() -> "Codec":
        return _codec(model, frozen, steps, chain, lanes, verify)

    def write(codec: "Codec", source: "FileSource", groups: "Iterable[Sequence[Choice]] | None" = None) -> None:
        _write(codec, source, groups, out, quiet)
        if rm and (changed := source.remove_files()):
            raise NelboError(
                f"{out} is written, but {len(changed)} files have changed since they were found, and are kept "
                f"({', '.join(map(str, changed[:3]))}): compress them again"
            )

    if n_processes() > 1:
        _together(open_images, make_codec, write)
    else:
        source = open_images()
        write(make_codec(), source)


def _together(
    open_images: Callable[[], "FileSource"],
    make_codec: Callable[[], "Codec"],
    write: Callable[["Codec", "FileSource", "Iterable[Sequence[Choice]]"], None],
) -> None:
    """Compresses in the processes of ``torchrun``: each codes every so many chains, the first one writes."""
    from nelbo.container.records import pack_header
    from nelbo.runtime.agreement import agree, in_turn, one_of_many, same

    with one_of_many() as world:
        source = agree(world, open_images)
        first = agree(world, lambda: make_codec() if world.is_first else None)  # It may freeze the model, for all.
        codec = agree(world, lambda: first or make_codec())
        same(world, pack_header(codec.header(source)), "images, or models frozen apart: give all one --frozen file")

        def work() -> None:
            with closing(in_turn(world, codec.chains(source, world.rank, world.size))) as groups:
                if world.is_first:
                    write(codec, source, groups)
                else:
                    deque(groups, 0)

        agree(world, work)


def _write(
    codec: "Codec", source: "FileSource", groups: "Iterable[Sequence[Choice]] | None", out: Path, quiet: bool
) -> None:
    from nelbo.cli.archive_files import meter, output_stream
    from nelbo.integer.frozen_files import kept_file

    with output_stream(out) as stream, meter(quiet, len(source.entries)) as bar:
        if groups is None:
            codec.write(stream, source, bar.update)
        else:
            codec.assemble(stream, source, groups, bar.update)
    n_pixels = sum(entry.width * entry.height for entry in source.entries)
    if not quiet and str(out) != "-":
        n_bytes = out.stat().st_size
        shown = f"{n_bytes} bytes, {8 * n_bytes / n_pixels:.3f} bits a pixel"
        print(f"{out}: {len(source.entries)} images, {shown}", file=sys.stderr)
    if not quiet and (needed := kept_file(codec.frozen)) is not None:
        print(f"other machines need {needed} to decode it, with --model", file=sys.stderr)


def _codec(model: str, frozen: Path | None, steps: str, chain: int, lanes: int, verify: bool) -> "Codec":
    from nelbo.codec.codec import Codec
    from nelbo.codec.plan_store import budgets_of, named_plan
    from nelbo.integer.frozen_files import FROZEN, frozen_of
    from nelbo.integer.frozen_model import FrozenModel
    from nelbo.interop.any_model import load
    from nelbo.runtime.bundled import bundled_models
    from nelbo.time_schedule.schedule import TimeSchedule

    bundled = bundled_models().get(model, Path(model)) / FROZEN
    frozen = bundled if frozen is None and bundled.is_file() else frozen
    name = model if model in bundled_models() else Path(model).name
    if steps.isdecimal() and frozen is not None and int(steps) in budgets_of(integers := FrozenModel.load(frozen)):
        return Codec(None, named_plan(integers, int(steps)), integers, name, chain, lanes, verify)
    loaded = load(model)
    integers = frozen_of(loaded) if frozen is None else FrozenModel.load(frozen)
    schedule = _schedule(model, steps) if steps.isdecimal() else TimeSchedule.load(steps)
    return Codec(loaded, schedule, integers, name, chain, lanes, verify)


def _schedule(model: str, steps: str) -> "TimeSchedule":
    """Returns the best schedule of a budget, from the error table that comes with the model."""
    from nelbo.runtime.bundled import bundled_tables
    from nelbo.time_schedule.error_table import load_table
    from nelbo.time_schedule.optimise import optimal_schedules

    path = bundled_tables().get(model, Path(model) / "errors.safetensors")
    if not path.is_file():
        raise NelboError(
            f"{model} comes with no plan of {steps} steps: find a schedule with nelbo schedule, give its file"
        )
    return optimal_schedules(load_table(path), [int(steps)])[int(steps)]
