"""Labels lie in an idx file beside that of the images."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from nelbo.data import open_images
from nelbo.errors import NelboError

from fixtures.image_files import as_idx, idx_bytes, pixels_nhwc, refusal


@pytest.mark.parametrize(("name", "pack"), [("idx3-ubyte", bytes), ("idx3-ubyte.gz", gzip.compress)])
def test_idx_labels_lie_beside_the_images(tmp_path, name, pack):
    path = tmp_path / f"t10k-images-{name}"
    path.write_bytes(pack(idx_bytes(pixels_nhwc(1)[..., 0])))
    assert open_images(path).labels is None
    (tmp_path / f"t10k-labels-{name.replace('3', '1')}").write_bytes(pack(idx_bytes(np.arange(7, dtype=np.uint8))))
    labels = open_images(path).labels
    assert labels is not None
    assert labels.tolist() == list(range(7))


def test_damaged_idx_labels_are_refused(tmp_path):
    path = as_idx(tmp_path, pixels_nhwc(1))
    labels: Path = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.arange(6, dtype=np.uint8)))
    assert "expected 7 integers" in refusal(path)
    for content in (b"something else", b""):
        labels.write_bytes(content)
        with pytest.raises(NelboError, match="labels-idx1-ubyte does not begin as an idx file"):
            open_images(path)
