"""Pictures of any size and mode become images of one size, by Lanczos's filter and square windows."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from nelbo.data import from_array, open_images
from nelbo.data.arrays import save_npz
from nelbo.data.fitting import Fit, fit_images
from nelbo.errors import NelboError
from nelbo.train.batches import read_batch

SIZES = ((40, 30), (31, 64), (30, 30), (100, 35))


def photograph(width, height, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    for i, (width, height) in enumerate(SIZES):
        photograph(width, height, i).save(tmp_path / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize(("fit", "side"), [(Fit(16), 16), (Fit(20, 16), 16), (Fit(None, 24), 24), (Fit(64), 64)])
def test_all_get_one_size(folder, fit, side):
    images = open_images(folder, fit)
    assert images.shape == (3, side, side)
    assert images.read(range(4)).shape == (4, 3, side, side)
    assert images.select([2, 1]).preparation == str(fit)


def test_evaluation_sees_the_centre_by_lanczos(folder):
    shrunk = photograph(100, 35, 3).resize((round(100 * 16 / 35), 16), Image.Resampling.LANCZOS)
    left = (shrunk.width - 16 + 1) // 2
    expected = np.asarray(shrunk.crop((left, 0, left + 16, 16)))
    found = open_images(folder, Fit(16)).read([3])[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, expected)


def test_any_window_can_be_read_and_no_other(folder):
    images, whole = open_images(folder, Fit(None, 24)), np.asarray(photograph(40, 30, 0))
    windows = {whole[y : y + 24, x : x + 24].tobytes(): (x, y) for x in range(17) for y in range(7)}
    draws = np.random.default_rng(0).random((2000, 2))
    draws[:4] = [[0, 0], [1, 1], [1, 0], [0, 1]]
    read = images.read_at([0] * 2000, draws).permute(0, 2, 3, 1).numpy()
    places = [windows[np.ascontiguousarray(window).tobytes()] for window in read]
    assert places[:4] == [(0, 0), (16, 6), (16, 0), (0, 6)]
    assert len(set(places)) == len(windows)


def test_training_crops_at_random_and_again_the_same(folder):
    images = open_images(folder, Fit(None, 24))
    first, again, later = (read_batch(images, range(8), 8, 0, step, False) for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    centres = images.read(range(4))
    assert not all(any(torch.equal(window, centre) for centre in centres) for window in first)


def test_images_of_one_size_are_batched_as_before(folder):
    images = from_array(np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8))
    assert torch.equal(images.read_at([1, 4], np.array([[0.0, 0.0], [1.0, 1.0]])), images.read([1, 4]))
    assert images.preparation == ""


def test_every_mode_becomes_rgb_and_grey_alone_stays_grey(tmp_path):
    colour = photograph(20, 20)
    for mode in ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK"):
        colour.convert(mode).save(tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}")
    assert open_images(tmp_path, Fit(16)).read(range(7)).shape == (7, 3, 16, 16)
    for name in ("RGB.png", "P.png", "RGBA.png", "CMYK.jpg"):
        (tmp_path / name).unlink()
    assert open_images(tmp_path, Fit(16)).shape == (1, 16, 16)


def test_what_is_transparent_lies_on_white(tmp_path):
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[8:, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "half.png")
    found = open_images(tmp_path, Fit(None, 16)).read([0])[0]
    assert bool((found[:, :8] == 255).all())
    assert bool((found[:, 8:] == 0).all())


def test_photographs_are_turned_upright(tmp_path):
    upright = photograph(16, 24)
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned: a viewer turns it by 270 degrees counter-clockwise.
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    found = open_images(tmp_path, Fit(None, 16)).read([0])[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, np.asarray(upright)[4:20])


def test_zips_parquets_and_arrays_are_fitted_as_folders_are(folder, tmp_path_factory):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    elsewhere = tmp_path_factory.mktemp("elsewhere")
    expected = open_images(folder, Fit(16)).read(range(4))
    archive = shutil.make_archive(str(elsewhere / "x"), "zip", folder)
    encoded = [(folder / f"{i}.png").read_bytes() for i in range(4)]
    pq.write_table(pa.table({"image": encoded}), elsewhere / "x.parquet")
    for path in (archive, elsewhere / "x.parquet"):
        assert torch.equal(open_images(path, Fit(16)).read(range(4)), expected)
    wide = from_array(np.asarray(photograph(100, 35, 3))[None], labels=np.array([7]))
    fitted = fit_images(wide, Fit(16))
    assert torch.equal(fitted.read([0])[0], expected[3])
    assert fitted.labels is not None
    assert fitted.labels.tolist() == [7]


def test_what_is_saved_is_what_is_read(folder, tmp_path):
    images = fit_images(from_array(open_images(folder, Fit(32)).read(range(4)), labels=np.arange(4)), Fit(8))
    save_npz(images, tmp_path / "x.npz")
    again = open_images(tmp_path / "x.npz")
    assert torch.equal(again.read(range(4)), images.read(range(4)))
    assert again.labels is not None
    assert again.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("fit", "problem"),
    [
        ((None, None), "--resize or --crop: give one of them"),
        ((0, None), "--resize is a number of pixels from 1 on, got 0"),
        ((None, -3), "--crop is a number of pixels from 1 on, got -3"),
        ((16, 32), "--crop 32 is larger than --resize 16"),
    ],
)
def test_fits_that_are_none(fit, problem):
    with pytest.raises(NelboError, match=problem):
        Fit(*fit)


def test_pictures_that_cannot_be_used_are_named(folder):
    with pytest.raises(NelboError, match=r"3 of 4 .*0\.png \(40x30, smaller than --crop 32: use --resize 32 instead\)"):
        open_images(folder, Fit(None, 32))
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(folder / "deep.png")
    with pytest.raises(NelboError, match=r"1 of 5 .*deep\.png \(more than 8 bits a channel"):
        open_images(folder, Fit(16))
    with pytest.raises(NelboError, match=r"nelbo data folder .* --size 64"):
        open_images(folder)
