"""Pictures hold the pixels they were given, in reading order."""

import numpy as np
import pytest
import torch
from PIL import Image

from nelbo.data.pictures import grid, save_grid, save_png
from nelbo.errors import NelboError


def images(n, channels, height=3, width=5):
    return torch.arange(n * channels * height * width).reshape(n, channels, height, width).to(torch.uint8)


def read(path):
    with Image.open(path) as picture:
        return picture.mode, torch.from_numpy(np.array(picture))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_png_holds_the_image(tmp_path, channels, mode):
    (image,) = images(1, channels)
    save_png(image, tmp_path / "new" / "image.png")
    found_mode, pixels = read(tmp_path / "new" / "image.png")
    assert found_mode == mode
    torch.testing.assert_close(pixels.reshape(3, 5, channels), image.permute(1, 2, 0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("n", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (3, 2, 2), (5, 2, 3), (16, 4, 4)])
def test_a_grid_shows_every_image_in_reading_order(n, rows, columns, channels):
    cells = images(n, channels) // 2 + 1
    picture = grid(cells)
    assert picture.shape == (channels, rows * 4 - 1, columns * 6 - 1)
    rest = picture.clone()
    for i, cell in enumerate(cells):
        top, left = i // columns * 4, i % columns * 6
        torch.testing.assert_close(picture[:, top : top + 3, left : left + 5], cell)
        rest[:, top : top + 3, left : left + 5] = 0
    assert not rest.any()


def test_a_grid_is_saved_as_one_png(tmp_path):
    save_grid(images(4, 3), tmp_path / "grid.png")
    torch.testing.assert_close(read(tmp_path / "grid.png")[1], grid(images(4, 3)).permute(1, 2, 0))
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NelboError, match=r"cannot write .*grid.png"):
        save_grid(images(2, 1), tmp_path / "file" / "grid.png")
