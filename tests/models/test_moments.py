"""Moments are kept as they are, in the same bytes each time, and files of the first version are read."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nelbo.data import from_array
from nelbo.models.moments import FORMAT, image_moments, load_moments, save_moments
from nelbo.runtime.bundled import bundled_models


@pytest.fixture
def moments():
    return image_moments(from_array(np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)))


def test_they_are_written_in_the_same_bytes_each_time(moments, tmp_path):
    written = set()
    for _ in range(12):  # The order of a header's entries is drawn anew for each file.
        save_moments(moments, tmp_path / "moments.safetensors")
        written.add((tmp_path / "moments.safetensors").read_bytes())
    assert len(written) == 1
    again = load_moments(tmp_path / "moments.safetensors")
    assert again.n_blocks == moments.n_blocks
    torch.testing.assert_close(again.total, moments.total.float().double())


def test_files_that_count_in_their_header_are_read(moments, tmp_path):
    tensors = {"total": moments.total.float(), "products": moments.products.float().contiguous()}
    save_file(tensors, tmp_path / "old", {"format": FORMAT, "n_blocks": str(moments.n_blocks)})
    assert load_moments(tmp_path / "old").n_blocks == moments.n_blocks
    for folder in bundled_models().values():
        assert load_moments(folder / "moments.safetensors").n_blocks > 0
