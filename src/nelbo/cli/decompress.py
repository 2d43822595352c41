"""``nelbo decompress``, ``list``, ``test`` and ``recover``: archives back into images."""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nelbo.cli.compress import Flag, Keep, Out, Quiet, Verbose, Workers
from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo.codec.assembly import Restored
    from nelbo.container.entries import Member
    from nelbo.container.header import Header

Archives = Annotated[tuple[Path, ...], tyro.conf.Positional]
Json = Annotated[bool, tyro.conf.arg(name="json")]
Patterns = tyro.conf.UseAppendAction[tuple[str, ...]]


def decompress(
    archives: Archives,
    out: Out = None,
    members: Patterns = (),
    model: str | None = None,
    times: bool = True,
    lanes: int = 16,
    workers: Workers = 0,
    force: Flag = False,
    keep: Keep = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Restores the files of archives, each as it was.

    Args:
        archives: The archives, - for standard input.
        out: The folder to write to, by default this one; - writes a single file to standard output.
        members: A pattern of members to restore, such as 'photos/*.png' or 'photos/2024'; may be repeated.
        model: The model's folder, or its frozen form's file, where it is neither bundled nor was made on this machine.
        times: Restore times of modification.
        lanes: Chains decoded side by side.
        workers: Processes that decode; 0 for one a core.
        force: Overwrite files that are there.
        keep: Keep the archive, as always.
        verbose: Name each file that is written.
        quiet: No progress.
    """
    del keep
    from nelbo.cli.archive_files import for_each, input_stream, meter, n_workers, named_model, say
    from nelbo.codec.reading import read_archive
    from nelbo.codec.unpack import Unpacked

    given = named_model(model)

    def restore(archive: Path) -> None:
        with input_stream(archive) as stream, meter(quiet) as bar:
            header, found = read_archive(stream, given, lanes, bar.advance, n_workers(workers))
            bar.total = header.first_tiles[-1]
            names = _chosen(header, members)
            if str(out) == "-":
                _to_standard_output(found, names)
                return
            unpacked = Unpacked(out or Path(), force, times)
            for entry in header.entries:
                if entry.name in names:
                    unpacked.check(entry)
            modified = _times(header)
            for entry, restored in found:
                if entry.name in names:
                    unpacked.write(restored, entry, modified.get(entry.name))
                    if verbose:
                        say(entry.name)
            unpacked.finish()
        for note in unpacked.notes:
            say(note)

    for_each(archives, restore)


def list_images(archives: Archives, verbose: Verbose = False, as_json: Json = False) -> None:
    """Lists the members of archives with their sizes, and what they were made with.

    Args:
        archives: The archives, - for standard input.
        verbose: For each member its share of the bytes, bits per dimension and method as well.
        as_json: Print all of it as JSON, for programs.
    """
    from nelbo.cli.archive_files import for_each, input_stream, printable
    from nelbo.cli.members import measured, table

    def show(archive: Path) -> None:
        with input_stream(archive, seekable=True) as stream:
            found = measured(stream)
        if as_json:
            print(json.dumps({"archive": str(archive), **found.as_json()}, indent=2))
            return
        for line in table(found.members, verbose):
            print(line)
        header = found.header
        chain = f"{len(header.gammas)} levels, kernel {printable(header.kernel)}" if header.gammas else "not needed"
        print(f"{found.summary} in {found.n_chains} chains, format version {header.version}")
        print(f"model {printable(header.model_name)} {header.model_sha256.hex()[:16]}, {chain}")

    for_each(archives, show)


def check(
    archives: Archives,
    model: str | None = None,
    lanes: int = 16,
    workers: Workers = 0,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Decodes archives without writing anything: every checksum and every pixel hash is checked.

    Args:
        archives: The archives, - for standard input.
        model: As for decompress.
        lanes: Chains decoded side by side.
        workers: Processes that decode; 0 for one a core.
        verbose: Name each member.
        quiet: No progress.
    """
    from nelbo.cli.archive_files import for_each, input_stream, meter, n_workers, named_model, say
    from nelbo.cli.members import counted
    from nelbo.codec.reading import read_archive

    given = named_model(model)

    def test(archive: Path) -> None:
        with input_stream(archive) as stream, meter(quiet) as bar:
            header, found = read_archive(stream, given, lanes, bar.advance, n_workers(workers))
            bar.total = header.first_tiles[-1]
            for entry, _ in found:
                if verbose:
                    say(entry.name)
        if not quiet:
            what = "image" if len(header.images) == len(header.entries) else "member"
            print(f"{archive}: {counted(len(header.entries), what)}, all whole")

    for_each(archives, test)


def recover(
    archives: Archives,
    out: Out = None,
    model: str | None = None,
    lanes: int = 16,
    force: Flag = False,
    quiet: Quiet = False,
) -> None:
    """Restores what is whole of damaged archives; exit status 1 if something is missing.

    Args:
        archives: The archives, - for standard input.
        out: The folder to write to, by default this one.
        model: As for decompress.
        lanes: Chains decoded side by side.
        force: Overwrite files that are there.
        quiet: No progress.
    """
    from nelbo.cli.archive_files import for_each, input_stream, meter, named_model, say
    from nelbo.codec.reading import recover_archive
    from nelbo.codec.unpack import Unpacked

    given = named_model(model)

    def restore(archive: Path) -> None:
        restored, problems = set[str](), []
        with input_stream(archive, seekable=True) as stream, meter(quiet) as bar:
            header, found = recover_archive(stream, given, lanes, bar.advance)
            bar.total = header.first_tiles[-1]
            unpacked, modified = Unpacked(out or Path(), force), _times(header)
            for entry, content in found:
                try:
                    unpacked.write(content, entry, modified.get(entry.name))
                    restored.add(entry.name)
                except NelboError as error:  # The others can be written all the same.
                    problems.append(str(error))
            unpacked.finish()
        for note in unpacked.notes:
            say(note)
        what = "images" if len(header.images) == len(header.entries) else "members"
        if not quiet:
            say(f"{archive}: {len(restored)} of {len(header.entries)} {what} recovered")
        if missing := [entry.name for entry in header.entries if entry.name not in restored]:
            why = f", {len(problems)} of them not written ({problems[0]})" if problems else ""
            raise NelboError(f"{len(missing)} {what} of {archive} could not be recovered{why}: {_some(missing)}")

    for_each(archives, restore)


def _chosen(header: "Header", patterns: Sequence[str]) -> set[str]:
    """Returns the names of the members to restore.

    Raises:
        NelboError: If a pattern is of none.
    """
    from nelbo.codec.walk import matches

    names = [entry.name for entry in header.entries]
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            raise NelboError(f"no member of the archive is of {pattern!r}: see nelbo list")
    return {name for name in names if not patterns or any(matches(name, pattern) for pattern in patterns)}


def _times(header: "Header") -> dict[str, int]:
    return {} if header.times is None else dict(zip((e.name for e in header.entries), header.times, strict=True))


def _to_standard_output(found: "Iterator[tuple[Member, Restored]]", names: set[str]) -> None:
    """Writes the one member that was chosen to standard output.

    Raises:
        NelboError: If several are.
    """
    from tempfile import TemporaryDirectory

    from nelbo.cli.archive_files import refuse_terminal
    from nelbo.codec.unpack import Unpacked

    if len(names) != 1:
        raise NelboError(f"standard output takes one member, not {len(names)}: choose one with --members")
    refuse_terminal()
    with TemporaryDirectory() as folder:
        for entry, restored in found:
            if entry.name in names:
                Unpacked(Path(folder)).write(restored, entry)
        for path in filter(Path.is_file, Path(folder).rglob("*")):
            with path.open("rb") as stream:
                shutil.copyfileobj(stream, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
