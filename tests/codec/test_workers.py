"""Processes that code for one: the archive is the same for any number of them, and so are its images."""

from io import BytesIO

import pytest
import torch

from nelbo.codec.codec import Codec
from nelbo.codec.layout import Source
from nelbo.codec.reading import read_archive
from nelbo.container.entries import Entry

from fixtures.archives import always


@pytest.mark.parametrize("n_workers", [2])
def test_workers_change_no_byte_and_count_every_tile(
    small_model, small_frozen, schedule_of, smooth_images, n_workers, monkeypatch
):
    for module in ("codec", "reading"):  # Few tiles would not be shared.
        monkeypatch.setattr(f"nelbo.codec.{module}.is_long", lambda n_tiles, n_calls: True)
    images = smooth_images(14)
    rows = images.permute(0, 2, 3, 1).contiguous().numpy()
    entries = [Entry(f"{i:05d}.png", 8, 8, "RGB") for i in range(14)]
    source = Source(entries, lambda i: rows[i])
    schedule = schedule_of("analytic", "causal", (0.5, 2.0), 0.0)
    codec = Codec(small_model, schedule, small_frozen, "small", n_chain=4, policy=always)
    alone, shared, written, read = BytesIO(), BytesIO(), [], []
    codec.write(alone, source)
    codec.write(shared, source, written.append, n_workers)
    assert shared.getvalue() == alone.getvalue()
    found = [
        pixels for _, pixels in read_archive(BytesIO(alone.getvalue()), small_frozen, 16, read.append, n_workers)[1]
    ]
    assert torch.equal(torch.stack([torch.from_numpy(each) for each in found]), torch.from_numpy(rows))
    assert sum(written) == sum(read) == 14
