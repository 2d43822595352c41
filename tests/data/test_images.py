"""A set of images: selecting is indexing, and an index out of range is an error."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nelbo.data import from_array

from fixtures.image_files import pixels_nhwc, tensor


@given(st.lists(st.integers(0, 6)), st.data())
def test_selecting_is_indexing(chosen, data):
    pixels, labels = pixels_nhwc(3), np.arange(7, dtype=np.uint8)
    view = from_array(pixels, labels=labels).select(chosen)
    assert len(view) == len(chosen)
    assert view.labels is not None
    np.testing.assert_array_equal(view.labels, labels[chosen])
    inner = data.draw(st.lists(st.integers(0, len(chosen) - 1))) if chosen else []
    expected = tensor(pixels)[np.array(chosen, int)[inner]]
    torch.testing.assert_close(view.read(inner), expected, rtol=0, atol=0)
    torch.testing.assert_close(view.select(inner).read(range(len(inner))), expected, rtol=0, atol=0)


def test_ambiguous_layouts_follow_the_library():
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    torch.testing.assert_close(from_array(pixels).read([0, 1]), tensor(pixels))
    torch.testing.assert_close(from_array(torch.from_numpy(pixels)).read([0, 1]), torch.from_numpy(pixels))


@pytest.mark.parametrize("bad", [[7], [-1], [0, 9]])
def test_an_index_out_of_range_is_an_index_error(bad):
    images = from_array(pixels_nhwc(3))
    for act in (images.read, images.select):
        with pytest.raises(IndexError, match="out of range for 7 images"):
            act(bad)
