"""Images in npz and npy files: which array is taken, with which labels, and which are refused."""

import io
import zipfile

import numpy as np
import pytest
import torch

from nelbo.data import from_array, open_images
from nelbo.errors import NelboError

from fixtures.image_files import as_npy, pixels_nhwc, refusal, saved_npz


def test_an_npy_is_mapped_not_read(tmp_path):
    path = as_npy(tmp_path, np.zeros((7, 5, 9, 3), np.uint8))
    images = open_images(path)
    with path.open("r+b") as stream:
        stream.seek(-1, io.SEEK_END)
        stream.write(b"\x07")
    assert images.read([6])[0, 2, 4, 8] == 7


def test_npz_labels(tmp_path):
    images = open_images(saved_npz(tmp_path, images=pixels_nhwc(1), labels=np.arange(7, dtype=np.uint8)))
    assert images.labels is not None
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == list(range(7))


@pytest.mark.parametrize("labels", [np.arange(6), np.zeros(7), np.zeros((7, 1), int)])
def test_labels_are_one_integer_per_image(tmp_path, labels):
    with pytest.raises(NelboError, match="expected 7 integers"):
        open_images(saved_npz(tmp_path, images=pixels_nhwc(1), labels=labels))


ARRAYS = [np.zeros(s, t) for s in [(7, 5, 9, 3), (7, 5, 9)] for t in (np.float32, np.uint16, np.int64, bool)]
ARRAYS += [np.zeros(s, np.uint8) for s in [(7,), (5, 9), (7, 5, 9, 4), (7, 2, 9, 5), (1, 7, 5, 9, 3)]]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype} {array.shape}")
def test_other_arrays_are_refused(tmp_path, array):
    for path in (as_npy(tmp_path, array), saved_npz(tmp_path, images=array)):
        assert f"holds {array.dtype} of shape {array.shape}: expected uint8 pixels" in refusal(path)
    for value in (array, torch.from_numpy(array)):
        with pytest.raises(NelboError, match=r"photos holds .* expected uint8"):
            from_array(value, "photos")


def test_an_npz_must_tell_which_array(tmp_path):
    pixels = pixels_nhwc(1)
    assert "2 arrays of images among ['a', 'b']" in refusal(saved_npz(tmp_path, a=pixels, b=pixels))
    assert "no array of images among ['a']" in refusal(saved_npz(tmp_path, a=np.zeros(3)))
    assert "damaged" in refusal(saved_npz(tmp_path, images=np.array([{}, {}])))


def test_arrays_and_archives_under_each_others_names_are_refused(tmp_path):
    array = np.zeros((2, 4, 4), np.uint8)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", images=array)
    (tmp_path / "a.npy").rename(tmp_path / "array.npz")
    (tmp_path / "b.npz").rename(tmp_path / "archive.npy")
    with zipfile.ZipFile(tmp_path / "pictures.npz", "w") as archive:
        archive.writestr("x.png", b"no array")
    for name in ("array.npz", "archive.npy", "pictures.npz"):
        with pytest.raises(NelboError, match=name):
            open_images(tmp_path / name)
