"""``nelbo compress``: images, and with --all any files, into an archive."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo.codec.codec import Codec
    from nelbo.codec.image_files import FileSource
    from nelbo.codec.layout import Choice

Flag = Annotated[bool, tyro.conf.arg(aliases=["-f"])]
Quiet = Annotated[bool, tyro.conf.arg(aliases=["-q"])]
Verbose = Annotated[bool, tyro.conf.arg(aliases=["-v"])]
Out = Annotated[Path | None, tyro.conf.arg(aliases=["-o"])]
Workers = Annotated[int, tyro.conf.arg(aliases=["-T"])]
Keep = Annotated[bool, tyro.conf.arg(aliases=["-k"])]
Level = Literal[1, 2, 3, 4, 5, 6, 7, 8, 9]
STEPS_OF_LEVELS = {1: 0, 2: 4, 3: 4, 4: 8, 5: 8, 6: 16, 7: 32, 8: 64, 9: 64}
"""Network calls a tile at each level; 0 is JPEG XL alone."""


def compress(
    images: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    out: Out = None,
    level: Level = 6,
    model: str = "cifar10-small",
    frozen: Path | None = None,
    steps: str | None = None,
    everything: Annotated[bool, tyro.conf.arg(name="all", aliases=["-a"])] = False,
    pixels_only: bool = False,
    times: bool = True,
    strict: bool = False,
    exclude: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    files_from: Path | None = None,
    chain: int = 256,
    lanes: int = 16,
    workers: Workers = 0,
    verify: bool = True,
    force: Flag = False,
    keep: Keep = False,
    rm: bool = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Compresses images losslessly, by bits-back coding with a diffusion model; every file comes back as it was.

    What the model does not suit is kept as JPEG XL, JPEG files by JPEG XL's reversible transcoding, other formats as
    their own bytes. The images of data sets (.npz, .npy, .parquet, .zip, idx) become PNG files in a folder. Short
    options are those of xz: -1 ... -9, -c, -k, -f, -v, -q, -T N. Started under torchrun, processes share the chains.

    Args:
        images: Image files, folders, data sets; - reads an image file from standard input.
        out: The archive to write, - for standard output; by default photos.nelbo for photos/.
        level: From 1, JPEG XL alone, to 9; at 2 to 9 the network is called 4, 4, 8, 8, 16, 32, 64 and 64 times a tile.
            CIFAR-10 takes 4.0 bits per dimension with 4 calls and 3.4 with 64, at 62 and 4 images a second and core.
        model: A bundled model's name or a model folder.
        frozen: The file that `nelbo freeze` made of the model; bundled models come with theirs.
        steps: Network calls an image, of the plans that come with the model, or a time schedule's file.
        everything: Store files that are no pictures, hidden ones, links and empty folders as well.
        pixels_only: Keep the pixels of PNG, TIFF, BMP and PNM files alone: metadata is dropped.
        times: Keep times of modification.
        strict: End at the first file that cannot be kept, rather than go on without it.
        exclude: A pattern of names to leave out, such as '*.tmp' or 'photos/old'; may be repeated.
        files_from: A file with one path a line, - for standard input.
        chain: Images a chain: more make a smaller file, fewer lose less to a damaged byte.
        lanes: Chains coded side by side.
        workers: Processes that code; 0 for one a core. The archive is the same for any number.
        verify: Decode everything and compare before finishing.
        force: Overwrite an archive that is there.
        keep: Keep the files, as without --rm.
        rm: Remove the files once they are archived; not what links lead to, nor data sets, which may hold more.
        verbose: Say what each file is kept as.
        quiet: No progress, no summary.
    """
    from nelbo.cli.archive_files import check_free, default_archive, n_workers, say
    from nelbo.codec.image_files import open_source
    from nelbo.codec.walk import Selection
    from nelbo.runtime.agreement import n_processes

    named = [*images, *_listed(files_from)]
    if not named:
        raise NelboError("there is nothing to compress: name image files, folders or data sets")
    target = default_archive(named) if out is None else out
    _check_removal(rm and not keep, target, verify)
    selection = Selection(everything, pixels_only, times, strict, exclude)

    def open_images() -> "FileSource":
        check_free(target, force)
        if n_processes() > 1 and "-" in named:
            raise NelboError("several processes cannot share standard input: give image files instead of -")
        paths, threads = [Path(each) for each in named], n_workers(workers)
        source = open_source(paths, lambda: sys.stdin.buffer.read(), selection, threads)
        among = (*source.files, *source.data_sets, *paths)
        if target.is_file() and any(path.is_file() and path.samefile(target) for path in among):
            raise NelboError(f"{target} is among what is compressed: choose another name for the archive")
        if rm and source.data_sets:
            raise NelboError(f"--rm removes image files, and {source.data_sets[0]} may hold more: leave --rm out")
        return source

    def make_codec() -> "Codec":
        from nelbo.cli.archive_models import codec_of

        return codec_of(model, frozen, steps or str(STEPS_OF_LEVELS[level]), chain, lanes, verify)

    def write(codec: "Codec", source: "FileSource", groups: "Iterable[Sequence[Choice]] | None" = None) -> None:
        _write(codec, source, groups, target, quiet, n_workers(workers))
        if not quiet:
            _summarise(codec, source, target, verbose)
        changed = source.remove_files() if rm and not keep else []
        problems = [*source.problems]
        if changed:
            problems.append(
                f"{target} is written, but {len(changed)} files have changed since they were found, and are kept "
                f"({', '.join(map(str, changed[:3]))}): compress them again"
            )
        for problem in problems[:-1]:
            say(problem)
        if problems:
            raise NelboError(problems[-1])

    if n_processes() > 1:
        _together(open_images, make_codec, write)
    else:
        source = open_images()
        write(make_codec(), source)


def _listed(files_from: Path | None) -> list[str]:
    """Returns the paths that a file lists, one a line.

    Raises:
        NelboError: If it cannot be read.
    """
    if files_from is None:
        return []
    try:
        text = sys.stdin.buffer.read() if str(files_from) == "-" else files_from.read_bytes()
    except OSError as error:
        raise NelboError(f"{files_from} cannot be read: {error.strerror}") from None
    return [line for line in text.decode("utf-8", "surrogateescape").splitlines() if line]


def _check_removal(removes: bool, target: Path, verify: bool) -> None:
    if removes and str(target) == "-":
        raise NelboError("--rm needs an archive on the disk, not standard output: name a file with -o")
    if removes and not verify:
        raise NelboError("--rm removes what was restored and compared: leave --no-verify out")


def _together(
    open_images: Callable[[], "FileSource"],
    make_codec: Callable[[], "Codec"],
    write: Callable[["Codec", "FileSource", "Iterable[Sequence[Choice]]"], None],
) -> None:
    """Compresses in the processes of ``torchrun``: each codes every so many chains, the first one writes."""
    from nelbo.container.header_bytes import pack_header
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
    codec: "Codec",
    source: "FileSource",
    groups: "Iterable[Sequence[Choice]] | None",
    out: Path,
    quiet: bool,
    workers: int,
) -> None:
    from nelbo.cli.archive_files import meter, output_stream, say

    header = codec.header(source)
    with output_stream(out) as stream:
        if groups is None and not quiet and (estimate := codec.estimate(source, workers)) is not None:
            say(str(estimate))
        with meter(quiet, header.first_tiles[-1]) as bar:
            if groups is None:
                codec.write(stream, source, bar.advance, workers)
            else:
                codec.assemble(stream, source, groups, bar.advance)


def _summarise(codec: "Codec", source: "FileSource", out: Path, verbose: bool) -> None:
    """Says how many members became how many bytes, and what was left out."""
    from nelbo.cli.archive_files import say
    from nelbo.cli.members import counted, in_words, measured, table
    from nelbo.codec.walk import NOT_FILES
    from nelbo.integer.frozen_files import kept_file

    if str(out) != "-":
        with out.open("rb") as stream:
            archive = measured(stream)
        for line in table(archive.members, verbose=True) if verbose else []:
            say(line)
        say(f"{out}: {archive.summary}")
    if source.n_bare:
        say(f"{counted(source.n_bare, 'image')} kept as pixels only: metadata, if any, is dropped")
    left_out = {kind: n for kind, n in source.left_out.items() if kind != NOT_FILES}
    if left_out:
        say(f"left out: {in_words(left_out)}; --all stores them")
    if n_others := source.left_out.get(NOT_FILES):
        say(f"left out: {n_others} {NOT_FILES}, which no archive stores")
    if any(source.entries) and (needed := kept_file(codec.frozen)) is not None:
        say(f"other machines need {needed} to decode it, with --model")
