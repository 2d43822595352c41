"""A working directory with a model and images in several forms, good and bad."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from nelbo.models.folder import save
from nelbo.models.vdm import VDM
from nelbo.train.config import override
from nelbo.train.presets import preset

from fixtures.command_line import DAMAGED_MODELS, TINY


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """Returns a folder with a model and images in several forms, good and bad."""
    root = tmp_path_factory.mktemp("pristine")
    torch.manual_seed(0)
    model = VDM(override(preset("cifar10-small"), TINY).model)
    with torch.no_grad():
        for p in model.net.parameters():
            p.add_(0.02 * torch.randn_like(p))
    save(model, root / "model", "A model.")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    np.savez(root / "images.npz", images=pixels)
    np.savez(root / "large.npz", images=np.zeros((4, 16, 16, 3), dtype=np.uint8))
    np.savez(root / "grey.npz", images=np.zeros((4, 8, 8), dtype=np.uint8))
    (root / "empty").mkdir()
    for name, pictures in {
        "folder": list(pixels),
        "mixed": [pixels[0], pixels[1], np.zeros((4, 4, 3), dtype=np.uint8)],
        "rgba": [np.zeros((8, 8, 4), dtype=np.uint8)] * 2,
        "corrupt": list(pixels[:3]),
    }.items():
        for i, picture in enumerate(pictures):
            (root / name).mkdir(exist_ok=True)
            Image.fromarray(picture).save(root / name / f"{i:03}.png")
    damaged = root / "corrupt" / "001.png"
    damaged.write_bytes(damaged.read_bytes()[:80])  # The header is whole, the pixels are not.
    (root / "images.txt").write_text("not images")
    (root / "cut.npz").write_bytes((root / "images.npz").read_bytes()[:1000])
    archive = shutil.make_archive(str(root / "images"), "zip", root / "folder")
    (root / "cut.zip").write_bytes((root / "images.zip").read_bytes()[:1000])
    assert archive
    (root / "file").write_text("in the way")
    for name, damage in DAMAGED_MODELS.items():
        shutil.copytree(root / "model", root / name)
        damage(root / name)
    return root


@pytest.fixture
def place(pristine, tmp_path, monkeypatch):
    """Makes a copy of that folder the working directory."""
    shutil.copytree(pristine, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"
