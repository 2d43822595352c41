"""Makes the golden archives and what they decode to; only ever to add one, for what is here may not change.

python tests/golden/make_archives.py tests/golden
"""

import hashlib
import json
import lzma
import sys
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import torch
from jaxtyping import Shaped

import nelbo
from nelbo.codec.codec import Codec
from nelbo.codec.layout import Source
from nelbo.codec.plan_store import named_plan
from nelbo.container.entries import Entry
from nelbo.diffusion.residual_decoder import NEIGHBOURS, ResidualDecoder
from nelbo.diffusion.spectral_basis import Basis
from nelbo.integer.freeze import freeze
from nelbo.integer.frozen_files import FROZEN
from nelbo.integer.frozen_model import FrozenModel
from nelbo.models.config import ModelConfig, UNetMultiscaleConfig
from nelbo.models.fingerprint import fingerprint
from nelbo.models.vdm import VDM
from nelbo.runtime.bundled import bundled_images, bundled_models
from nelbo.time_schedule.schedule import TimeSchedule

Pixels = Shaped[np.ndarray, "_ _ ..."]
SMALL = {"posterior-decoder": (0.5, 1.2, 2.0), "analytic-channels": (0.5, 2.0), "spectral-causal": (-2.0, 0.5, 2.0)}


def main(folder: Path) -> None:
    """Writes every archive that is missing, the small model and the table of what they hold."""
    table = folder / "archives.json"
    known = json.loads(table.read_text()) if table.exists() else {}
    for name, (codec, images) in codecs(folder).items():
        if name not in known:
            (folder / f"{name}.nelbo").write_bytes(archive_of(codec, images))
            known[name] = {"libjxl": imagecodecs.jpegxl_version(), "images": described(images)}
    table.write_text(json.dumps(known, indent=1) + "\n")


def codecs(folder: Path) -> dict[str, tuple[Codec, dict[Entry, Pixels]]]:
    """Returns the codec of each archive, and its images."""
    found = {}
    for name, (channels, side) in {"mnist-tiny": (1, 28), "cifar10-small": (3, 32)}.items():
        frozen = FrozenModel.load(bundled_models()[name] / FROZEN)
        found[name] = Codec(None, named_plan(frozen, 4), frozen, name, 4, policy=_always), images_of(channels, side)
    model = small_model()
    if not (folder / "small.frozen.xz").exists():
        freeze(model, torch.from_numpy(cifar()[:4, :, :8, :8].copy()), max_cost_bpd=1.0).save(folder / "small")
        (folder / "small.frozen.xz").write_bytes(lzma.compress((folder / "small").read_bytes(), preset=9))
    (folder / "small").write_bytes(lzma.decompress((folder / "small.frozen.xz").read_bytes()))
    frozen = FrozenModel.load(folder / "small")
    (folder / "small").unlink()
    for name, gammas in SMALL.items():
        kernel, leave = name.split("-")
        schedule = schedule_of(model, kernel, leave, gammas)
        found[f"small-{name}"] = Codec(model, schedule, frozen, "small", 4, policy=_always), images_of(3, 8)
    return found


def archive_of(codec: Codec, images: dict[Entry, Pixels]) -> bytes:
    """Returns an archive whose chains are bits-back where they can be, longer than JPEG XL or not."""
    stream, entries = BytesIO(), list(images)
    codec.write(stream, Source(entries, lambda i: images[entries[i]]))
    return stream.getvalue()


def _always(_n_bytes: int, _n_plain: int) -> bool:
    return True


def described(images: dict[Entry, Pixels]) -> list[list[str | int]]:
    """Returns name, width, height, mode and SHA-256 of the pixels, 16-bit ones with the low byte first, of each."""
    return [
        [e.name, e.width, e.height, e.mode, hashlib.sha256(p.astype(p.dtype.newbyteorder("<")).tobytes()).hexdigest()]
        for e, p in images.items()
    ]


def cifar() -> Shaped[np.ndarray, "n 3 32 32"]:
    """Returns bundled CIFAR-10 images."""
    return nelbo.open_images(bundled_images()["cifar10-test-256"]).read(range(12)).numpy()


def images_of(channels: int, side: int) -> dict[Entry, Pixels]:
    """Returns nine images of a model's size, a larger one, and two that are JPEG XL's."""
    rows = cifar().transpose(0, 2, 3, 1)
    rows = rows[..., 1] if channels == 1 else rows
    mode = "L" if channels == 1 else "RGB"
    images = {Entry(f"{i:04d}.png", side, side, mode): rows[i, :side, :side].copy() for i in range(9)}
    large = np.concatenate([rows[9], rows[10]], 1)[: side + 1, : side + 5].copy()
    images[Entry("deep/larger.png", large.shape[1], large.shape[0], mode)] = large
    grey = rows[11] if channels == 1 else rows[11, ..., 0]
    images[Entry("alpha.png", 9, 7, "RGBA")] = np.stack([grey[i : i + 7, :9] for i in range(4)], -1)
    images[Entry("sixteen.tif", 12, 5, "I;16")] = grey[:5, :12].astype(np.uint16) * 257 + 3
    return images


def small_model() -> VDM:
    """Returns a small network with weights that do something."""
    net = UNetMultiscaleConfig(channels=(8,), n_blocks_down=(1,), n_blocks_up=(1,), heads=(0,), n_cond=8, fourier=(7,))
    torch.manual_seed(0)
    model = VDM(ModelConfig(image_shape=(3, 8, 8), net=net, prediction="v")).eval()
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter += 0.2 / max(1, parameter[0].numel()) ** 0.5 * torch.randn(parameter.shape)
    return model


def schedule_of(model: VDM, kernel: str, leave: str, gammas: tuple[float, ...]) -> TimeSchedule:
    """Returns a schedule of some levels, with numbers in the place of fitted ones."""
    n, rng = len(gammas) - 1, np.random.default_rng(0)
    axes = torch.linalg.qr(torch.from_numpy(rng.normal(size=(3, 3)))).Q
    decoder = None if leave == "decoder" else exit_of(leave, rng)
    tensors = {
        "posterior": lambda: {},
        "analytic": lambda: {"mean_squares": torch.from_numpy(rng.uniform(0.01, 0.3, n))},
        "spectral": lambda: {"spectra": torch.from_numpy(rng.uniform(0.1, 0.5, (n, 3, 4, 8)))},
    }[kernel]()
    return TimeSchedule(
        gammas=torch.tensor(gammas, dtype=torch.float64),
        reverse=kernel,
        exit=decoder,
        fingerprint=fingerprint(model),
        image_shape=model.image_shape,
        n_steps=n if leave == "decoder" else n + 1,
        timesteps=None,
        prediction=None,
        tensors=tensors,
        basis=Basis(axes, (4, 8)) if kernel == "spectral" else None,
    )


def exit_of(kind: str, rng: np.random.Generator) -> ResidualDecoder:
    """Returns an exit with numbers in the place of fitted ones."""
    n_known = 3 * len(NEIGHBOURS[kind]) + 2
    scales = np.array([[0.0, 0.2, 0.1, 0.2]] * 3)[:, : 4 if NEIGHBOURS[kind] else 1]
    return ResidualDecoder(
        kind, torch.from_numpy(rng.normal(0, 0.2 / n_known**0.5, (3, n_known))), torch.from_numpy(scales), 0.5
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
