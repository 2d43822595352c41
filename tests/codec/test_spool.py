"""What is kept on the disk until it is written: it comes back, and a full disk is told at once."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from nelbo.codec.spool import Spool


def test_what_is_kept_comes_back():
    spool = Spool()
    texts = [b"one", b"", bytes(100_000), b"two"]
    readers = [spool.keep(text) for text in texts]
    del spool
    assert [read() for read in reversed(readers)] == texts[::-1]


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits there")
@pytest.mark.parametrize("arguments", [["a.png"], ["a.png", "--all"], ["-"]])
def test_a_full_folder_for_temporary_files_is_named_and_no_file_is_blamed(arguments, tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    code = f"""
import resource, signal
from nelbo.cli.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8))
main({["compress", "-1", "-T1", "-q", "-o", "x.nelbo", *arguments]!r})
"""
    with (tmp_path / "a.png").open("rb") as image:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path, stdin=image, timeout=60)
    assert done.returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert done.stderr.count(b"\n") == 1
    assert b"temporary files do not fit into" in done.stderr
