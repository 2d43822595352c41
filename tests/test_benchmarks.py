"""The codec's benchmark and its table of photographs measure what they say, on almost nothing."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import nelbo
from nelbo.codec.codec import Codec
from nelbo.codec.image_files import open_source
from nelbo.codec.plan_store import named_plan
from nelbo.errors import NelboError
from nelbo.integer.frozen_files import FROZEN
from nelbo.integer.frozen_model import FrozenModel
from nelbo.runtime.bundled import bundled_images, bundled_models


@pytest.fixture
def photos(tmp_path):
    """Noisy ramps, and an image with alpha."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    ramp = np.add.outer(np.arange(110), np.arange(100))[..., None] + rng.integers(0, 6, (110, 100, 3))
    Image.fromarray(ramp.astype(np.uint8)).save(folder / "ramp.png")
    Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)).save(folder / "small.png")
    Image.new("RGBA", (40, 40)).save(folder / "with-alpha.png")
    return folder


def test_the_times_of_coding_have_parts(script):
    benchmark = script("benchmarks/codec_speed.py")
    frozen = benchmark.TimedNetwork.load(bundled_models()[benchmark.MODEL] / FROZEN)
    images = nelbo.open_images(bundled_images()[benchmark.IMAGES]).read(range(2)).numpy()
    row = benchmark.coding(frozen, images, 4, 2)
    shares = [row[name] for name in ("network", "entropy coding", "rest")]
    assert sum(shares) == pytest.approx(1)
    assert all(0 < share < 1 for share in shares)
    assert min(row["encoded/s"], row["decoded/s"]) > 0
    evaluation = benchmark.network(nelbo.load(benchmark.MODEL), frozen, 1, 1)
    ratio = evaluation["exact"] / evaluation["float32"]
    assert evaluation["exact over float32"] == pytest.approx(ratio)  # Of one round.


def test_files_of_photographs_are_those_of_the_codec(script, photos, capsys):
    module = script("runs/photographs.py")
    rows = module.main(photos, "cifar10-small", [4], 96, None)
    assert "with-alpha.png: RGBA is left out" in capsys.readouterr().out
    assert [(row["photograph"], row["size"]) for row in rows] == [
        ("photos/ramp.png", "96x96"), ("photos/small.png", "90x70")
    ]  # fmt: skip
    frozen = FrozenModel.load(bundled_models()["cifar10-small"] / FROZEN)
    codec = Codec(None, named_plan(frozen, 4), frozen, "cifar10-small")
    for row, (entry, pixels) in zip(rows, module.photographs(photos, 96), strict=True):
        stream = BytesIO()
        codec.write(stream, module.Source([entry], lambda _, pixels=pixels: pixels))
        assert row["nelbo 4"] == 8 * stream.tell() / pixels.size
        assert not row["nelbo 4"] > row["bits-back 4"]  # Which is not a number where a chain has too few tiles.
    middle = open_source([photos]).pixels(0)[7:103, 2:98]
    assert np.array_equal(module.photographs(photos, 96)[0][1], middle)


def test_a_folder_without_photographs_is_refused(script, tmp_path):
    Image.new("L", (40, 40)).save(tmp_path / "grey.png")
    with pytest.raises(NelboError, match="holds no RGB images"):
        script("runs/photographs.py").photographs(tmp_path, None)


def test_an_archive_of_jpeg_files_is_hardly_more_than_their_transcoding(script, tmp_path):
    """Header, list, times and index take some hundred bytes, and a few more for each file."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(4):
        ramp = np.add.outer(np.arange(200), np.arange(300))[..., None] + rng.integers(0, 40, (200, 300, 3))
        Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "photos" / f"{i}.jpg", quality=90)
    found = script("benchmarks/archive_speed.py").jpeg_bytes(tmp_path / "photos")
    assert found["files"] == 4
    assert found["JPEG XL"] < found["JPEG"]
    assert found["archive"] < found["JPEG XL"] + 500 + 40 * 4


@pytest.mark.slow
def test_steps_drawn_by_their_cost_are_far_less_noisy_than_even_ones(script):
    """At as many network calls, the pilot pass among them."""
    benchmark = script("benchmarks/estimate_variance.py")
    model, images = benchmark.gaussian()
    row = benchmark.compare("gaussian", model, images, 4)
    assert row.n_calls <= row.n_even_calls <= 2 * row.n_calls
    assert row.ratio > 5
    assert row.claimed_error > row.error / 2
