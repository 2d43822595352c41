"""nelbo compress in two processes: the archive of one process, and every failure ends both with one line."""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from nelbo.cli.main import main
from nelbo.container.records import BlockKind
from nelbo.container.stream import read_block_at, read_places

FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(
    ["nelbo.cli.main", "nelbo.codec.codec", "nelbo.interop.any_model", "nelbo.codec.image_files"]
)

# One process of two, as torchrun would start it.
ONE_OF_TWO = """
import os, sys
os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
sys.stderr = open(log, "w", buffering=1)
import nelbo.codec.codec as archive
from nelbo.errors import NelboError
begin = archive.Codec.__init__
archive.Codec.__init__ = lambda *args, **options: begin(*args, **options, policy=lambda chain, other: True)
encode, add = archive.encode_images, archive.ArchiveWriter.add
def fails_once_it_has_coded(*arguments):
    if archive.n_coded == 1:
        raise {"encoding": NelboError("no more"), "bug": ZeroDivisionError("oops")}[fault]
    archive.n_coded += 1
    return encode(*arguments)
def fails_to_add(*arguments):
    raise OSError("no space left")
archive.n_coded = 0
if fault in ("encoding", "bug") and rank == culprit:
    archive.encode_images = fails_once_it_has_coded
if fault == "writing":
    archive.ArchiveWriter.add = fails_to_add
if fault == "death" and rank == culprit:
    archive.encode_images = lambda *arguments: os._exit(9)
from nelbo.cli.main import main
main(arguments[rank])
"""


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def images(tmp_path):
    """A folder of images in five chains: digits' shape, one that is larger, one of another mode."""
    rng, root = np.random.default_rng(0), tmp_path / "photos"
    root.mkdir()
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(root / f"{i}.png")
    Image.fromarray(rng.integers(0, 256, (30, 60), np.uint8)).save(root / "large.png")
    Image.fromarray(rng.integers(0, 256, (9, 9, 4), np.uint8)).save(root / "rgba.png")
    return root


def arguments(images, out, *options):
    return ["compress", str(images), "-o", str(out), "--model", "mnist-tiny", "--steps", "4", "-q",
            "--chain", "2", "--lanes", "1", *options]  # fmt: skip


@pytest.fixture
def two(tmp_path):
    """Runs both processes; returns their exit statuses and what they said."""
    script = tmp_path / "one_of_two.py"
    script.write_text(ONE_OF_TWO)

    def run(first, second=None, fault="", culprit=1):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        logs = [tmp_path / f"stderr{rank}" for rank in range(2)]
        given = {"port": port, "fault": fault, "culprit": culprit, "arguments": [first, second or first]}
        processes = [
            FRESH.Process(target=runpy.run_path, args=(str(script), given | {"rank": rank, "log": str(logs[rank])}))
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(240)
        return [process.exitcode for process in processes], [log.read_text() for log in logs]

    return run


def kinds_of(path):
    data = path.read_bytes()
    header, places = read_places(BytesIO(data))
    return [read_block_at(BytesIO(data), header, place).kind for place in places]


@pytest.mark.usefixtures("always_bits_back")
def test_two_processes_write_the_archive_of_one(images, tmp_path, two):
    statuses, said = two(arguments(images, tmp_path / "two.nelbo", "--rm"))
    assert statuses == [0, 0], said
    assert not list(images.iterdir())
    main(["decompress", str(tmp_path / "two.nelbo"), "-o", str(tmp_path), "-q"])  # Photos are back.
    main(arguments(images, tmp_path / "one.nelbo"))
    assert (tmp_path / "two.nelbo").read_bytes() == (tmp_path / "one.nelbo").read_bytes()
    assert set(kinds_of(tmp_path / "two.nelbo")) == {BlockKind.BITS_BACK, BlockKind.JPEG_XL, BlockKind.RESTS}


@pytest.mark.parametrize(
    ("fault", "culprit", "line"),
    [
        ("encoding", 0, "no more"),
        ("encoding", 1, "process 1: no more"),
        ("writing", 0, "no space left"),
        ("bug", 1, "process 1: ZeroDivisionError('oops')"),
    ],
)
def test_a_failure_ends_both_with_one_line_and_leaves_nothing(images, tmp_path, two, fault, culprit, line):
    folder = tmp_path / "out"
    folder.mkdir()
    statuses, said = two(arguments(images, folder / "a.nelbo"), fault=fault, culprit=culprit)
    assert statuses[0] == 1, said
    assert said[0] == f"nelbo: {line}\n"
    assert said[1] == "" if fault != "bug" else said[1].endswith("ZeroDivisionError: oops\n")
    assert not list(folder.iterdir())


def test_a_lost_process_ends_the_other(images, tmp_path, two):
    folder = tmp_path / "out"
    folder.mkdir()
    statuses, said = two(arguments(images, folder / "a.nelbo"), fault="death", culprit=1)
    assert statuses == [1, 9], said
    assert said[0] == "nelbo: another process of this run has ended, so this one cannot go on: see what that one said\n"
    assert not list(folder.iterdir())


@pytest.mark.parametrize("mistake", ["exists", "stdin", "other images", "no images"])
def test_a_mistake_ends_both_with_one_line(images, tmp_path, two, mistake):
    out, other = tmp_path / "a.nelbo", None
    if mistake == "exists":
        out.write_bytes(b"mine")
    if mistake == "other images":
        other = arguments(next(images.iterdir()), out)
    given = {"stdin": "-", "no images": tmp_path / "nowhere"}.get(mistake, images)
    statuses, said = two(arguments(given, out), other)
    expected = {
        "exists": "overwrite it with -f",
        "stdin": "several processes cannot share standard input",
        "other images": "the processes have different images",
        "no images": "nowhere",
    }[mistake]
    assert statuses == [1, 0], said
    assert expected in said[0]
    assert said[0].count("\n") == 1
    assert said[1] == ""
    assert not out.exists() or out.read_bytes() == b"mine"


@pytest.mark.slow
def test_torchrun_writes_the_archive_of_one_process(images, tmp_path):
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "nelbo"]
    command = [sys.executable, "-m", *torchrun, *arguments(images, tmp_path / "two.nelbo")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    main(arguments(images, tmp_path / "one.nelbo"))
    assert (tmp_path / "two.nelbo").read_bytes() == (tmp_path / "one.nelbo").read_bytes()
