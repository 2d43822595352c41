"""``nelbo decompress``, ``list``, ``test`` and ``recover``: archives back into images."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from nelbo.cli.compress import Flag, Out, Quiet
from nelbo.errors import NelboError

Archive = Annotated[Path, tyro.conf.Positional]


def decompress(
    archive: Archive, out: Out, model: str | None = None, lanes: int = 16, force: Flag = False, quiet: Quiet = False
) -> None:
    """Restores the images of an archive, every pixel as it was.

    Args:
        archive: The archive, - for standard input.
        out: The folder to write the images to.
        model: The frozen model's file, where it is neither bundled nor was made on this machine.
        lanes: Chains decoded side by side.
        force: Overwrite files that are there.
        quiet: No progress.
    """
    from nelbo.cli.archive_files import input_stream, meter, named_model
    from nelbo.codec.image_files import Unpacked
    from nelbo.codec.reading import read_archive

    with input_stream(archive) as stream, meter(quiet) as bar:
        header, images = read_archive(stream, named_model(model), lanes, bar.update)
        bar.total = len(header.entries)
        unpacked = Unpacked(out, force)
        for entry in header.entries:
            unpacked.check(entry)
        for entry, pixels in images:
            unpacked.write(pixels, entry)


def list_images(archive: Archive) -> None:
    """Lists the images of an archive with their sizes and modes, and what it was made with.

    Args:
        archive: The archive, - for standard input.
    """
    from nelbo.cli.archive_files import input_stream
    from nelbo.container.stream import read_places

    with input_stream(archive, seekable=True) as stream:
        header, places = read_places(stream)
        n_bytes = stream.seek(0, 2)
    for entry in header.entries:
        print(f"{entry.width:>6} x {entry.height:<6} {entry.mode:<5} {entry.name}")
    model, kernel = (ascii(text)[1:-1] for text in (header.model_name, header.kernel))
    print(f"{len(header.entries)} images, {len(places)} chains, {n_bytes} bytes")
    chain = f"{len(header.gammas)} levels, kernel {kernel}" if header.gammas else "not needed: JPEG XL alone"
    print(f"model {model} {header.model_sha256.hex()[:16]}, {chain}")


def check(archive: Archive, model: str | None = None, lanes: int = 16, quiet: Quiet = False) -> None:
    """Decodes an archive without writing anything: every checksum and every pixel hash is checked.

    Args:
        archive: The archive, - for standard input.
        model: As for decompress.
        lanes: Chains decoded side by side.
        quiet: No progress.
    """
    from nelbo.cli.archive_files import input_stream, meter, named_model
    from nelbo.codec.reading import read_archive

    with input_stream(archive) as stream, meter(quiet) as bar:
        header, images = read_archive(stream, named_model(model), lanes, bar.update)
        bar.total = len(header.entries)
        for _ in images:
            pass
    if not quiet:
        print(f"{archive}: {len(header.entries)} images, all whole")


def recover(
    archive: Archive, out: Out, model: str | None = None, lanes: int = 16, force: Flag = False, quiet: Quiet = False
) -> None:
    """Restores what is whole of a damaged archive; exit status 1 if something is missing.

    Args:
        archive: The archive, - for standard input.
        out: The folder to write the images to.
        model: As for decompress.
        lanes: Chains decoded side by side.
        force: Overwrite files that are there.
        quiet: No progress.
    """
    from nelbo.cli.archive_files import input_stream, meter, named_model
    from nelbo.codec.image_files import Unpacked
    from nelbo.codec.reading import recover_archive

    n_found, problems = 0, []
    with input_stream(archive, seekable=True) as stream, meter(quiet) as bar:
        header, images = recover_archive(stream, named_model(model), lanes, bar.update)
        bar.total = len(header.entries)
        unpacked = Unpacked(out, force)
        for entry, pixels in images:
            try:
                unpacked.write(pixels, entry)
                n_found += 1
            except NelboError as error:  # The others can be written all the same.
                problems.append(str(error))
    if not quiet:
        print(f"{archive}: {n_found} of {len(header.entries)} images recovered", file=sys.stderr)
    if n_found < len(header.entries):
        why = f", {len(problems)} of them not written ({problems[0]})" if problems else ""
        raise NelboError(f"{len(header.entries) - n_found} images of {archive} could not be recovered{why}")
