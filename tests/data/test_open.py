"""Whatever images are stored in, the same pixels come out; what is no data set, or a damaged one, is refused."""

import multiprocessing
import os
import pickle
import sys

import numpy as np
import pytest
import torch

from nelbo.data import open_images
from nelbo.errors import NelboError

from fixtures.image_files import (
    ANY,
    GREY,
    RGB,
    as_idx,
    as_npy,
    as_parquet,
    as_structs,
    as_zip,
    cut,
    pa,
    pixels_nhwc,
    refusal,
    saved_npz,
    tensor,
)

CASES = [(name, 3) for name in ANY] + [(name, 1) for name in ANY | GREY]


@pytest.mark.parametrize(("kind", "n_channels"), CASES)
def test_every_format_gives_back_the_pixels(tmp_path, kind, n_channels):
    pixels = pixels_nhwc(n_channels)
    path = (ANY | GREY)[kind](tmp_path, pixels)
    images = open_images(str(path))
    assert images.name == str(path)
    assert images.shape == (n_channels, 5, 9)
    assert len(images) == len(pixels)
    for indices in [range(7), [3], [6, 0, 0], np.array([2, 5], np.int32), []]:
        found = images.read(indices)
        assert found.is_contiguous()
        torch.testing.assert_close(found, tensor(pixels)[list(indices)], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ANY)
def test_every_format_survives_fork_and_pickle(tmp_path, kind):
    pixels = pixels_nhwc(3)
    images = open_images(ANY[kind](tmp_path, pixels))
    images.read([0])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images)).read([1]), tensor(pixels)[[1]])
    if kind == "zip":  # The one source that keeps a file open.
        process = multiprocessing.get_context("fork").Process(target=read_often, args=(images, pixels))
        process.start()
        read_often(images, pixels)
        process.join()
        assert process.exitcode == 0


def read_often(images, pixels):
    for _ in range(30):
        np.testing.assert_array_equal(images.read(range(7)).numpy(), np.moveaxis(pixels, -1, 1))


# Refusals


def test_paths_that_are_no_data_set_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("")
    RGB.save(tmp_path / "a.png")
    assert "does not exist: pass a folder" in refusal(tmp_path / "nowhere")
    assert "is no data set: pass a folder" in refusal(tmp_path / "a.txt")
    assert "is no data set: pass a folder" in refusal(tmp_path / "a.png")


def test_a_folder_of_data_sets_names_them(tmp_path):
    assert "holds no image files: pass a folder of PNG" in refusal(tmp_path)
    saved_npz(tmp_path, images=pixels_nhwc(1))
    as_structs(tmp_path, pixels_nhwc(1))
    as_idx(tmp_path, pixels_nhwc(1))
    (tmp_path / "b.zip").write_bytes(b"")
    message = refusal(tmp_path)
    assert "images.npz" in message
    assert "images.parquet" in message
    assert " and 1 more" in message
    for name in ("images.npz", "images.parquet", "b.zip"):
        (tmp_path / name).unlink()
    assert "train-images-idx3-ubyte" in refusal(tmp_path)


EMPTY = {
    "zip": lambda folder: as_zip(folder, []),
    "npz": lambda folder: saved_npz(folder, images=np.zeros((0, 4, 4, 3), np.uint8)),
    "npz without width": lambda folder: saved_npz(folder, images=np.zeros((4, 4, 0), np.uint8)),
    "npy": lambda folder: as_npy(folder, np.zeros((0, 4, 4, 3), np.uint8)),
    "parquet": lambda folder: as_parquet(folder, pa.array([], pa.binary())),
    "idx": lambda folder: as_idx(folder, np.zeros((0, 4, 4, 1), np.uint8)),
}


@pytest.mark.parametrize("kind", EMPTY)
def test_nothing_is_refused(tmp_path, kind):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").write_text("")
    message = refusal(EMPTY[kind](tmp_path))
    assert "is empty" in message or "holds no image files" in message


@pytest.mark.parametrize("kind", ["zip", "npz nhwc", "npy", "parquet of binary", "idx", "idx.gz"])
@pytest.mark.parametrize("n_left", [0, 3, 9, 60])
def test_a_file_cut_short_is_refused(tmp_path, kind, n_left):
    path = (ANY | GREY)[kind](tmp_path, pixels_nhwc(1))
    cut(path, path.stat().st_size - n_left)
    refusal(path)


@pytest.mark.parametrize("kind", ["zip", "npz nhwc", "npy", "parquet of binary", "idx", "idx.gz"])
def test_a_file_without_its_end_is_refused(tmp_path, kind):
    path = (ANY | GREY)[kind](tmp_path, pixels_nhwc(1))
    cut(path, 5)
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("kind", ["npz nhwc", "npy", "zip", "parquet of binary"])
def test_a_file_of_another_kind_is_refused(tmp_path, kind):
    path = ANY[kind](tmp_path, pixels_nhwc(1))
    path.write_text("<html>404</html>" * 9)
    assert "damaged or no" in refusal(path)


@pytest.mark.parametrize("kind", ["npy", "npz nhwc", "zip", "parquet of binary"])
def test_damaged_heads_are_refused_in_one_line_or_read(kind, tmp_path):
    path = ANY[kind](tmp_path, pixels_nhwc(3))
    whole, rng, refusals = path.read_bytes(), np.random.default_rng(0), []
    ends = [*range(min(128, len(whole))), *range(max(0, len(whole) - 300), len(whole))]
    for number in range(400):
        data = bytearray(whole)
        for at in rng.choice(ends, 1 + number % 3):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            images = open_images(path)
            images.read(range(len(images)))
        except NelboError as error:
            refusals.append(str(error))
    assert refusals
    assert not any("\n" in refusal for refusal in refusals)


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes with names there")
def test_pipes_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    os.mkfifo(tmp_path / "x.npz")
    with pytest.raises(NelboError, match="holds no image files"):
        open_images(tmp_path)
    with pytest.raises(NelboError, match="no regular file"):
        open_images(tmp_path / "x.npz")
