"""Cuts the training crops of ``photo-small`` from photographs in Debian packages, free of traces of JPEG.

    apt-get download enlightenment-data && dpkg-deb -x enlightenment-data_*.deb packages/enlightenment-data  # and so on
    python runs/photo_crops.py packages --out data

PACKAGES holds a folder for each package of ``SOURCES``. Drawings and renderings among their pictures are left out by
name, and so are photographs that are nearly black or that JPEG left little of. Each picture is reduced several times,
every time by a new random factor from a random origin: one fixed factor would leave traces of the 8x8 blocks that a
network learns and that no other picture has. Writes OUT/photo-train.npz and OUT/photo-held-out.npz, whose crops are of
whole pictures kept apart, and OUT/photo-sources.json, the number of crops of every picture.

The photographs of lxqt-themes, free by its copyright file, are not used: some of them carry notices of a licence that
is not (CC-BY-NC-SA).
"""

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from tqdm import tqdm

from nelbo.errors import NelboError
from nelbo.runtime.atomic import new_file
from nelbo.runtime.randomness import generator

SIZE, N_REDUCTIONS, START_OF_JPEG = 64, 8, b"\xff\xd8\xff"

Crops = UInt8[np.ndarray, "n size size 3"]


@dataclass(frozen=True)
class Source:
    """Photographs of one package.

    Attributes:
        package: Its name.
        licences: Of these pictures, by the package's copyright file.
        folder: Where they are.
        names: Regular expression of the whole names of those to take, from the folder on.
        held_out: The same, of those among them that no training crop is cut from.
        factors: Smallest and largest factor to reduce them by.
        share: Of all crops.
    """

    package: str
    licences: str
    folder: str
    names: str
    held_out: str
    factors: tuple[float, float]
    share: float


SOURCES = (
    Source(
        "enlightenment-data",
        "BSD-2-Clause",
        "usr/share/enlightenment/data/backgrounds",
        r"(Bamboo|God-Rays|(Green|Red)-Maple|Lichen-Branches|Mountain|Sea-of-Lanterns|Snow-Trees"
        r"|Spruce-Needles|Sunset-(Clouds|Hills)|(White|Yellow)-Flower)\.edj",
        r"(Bamboo|Sunset-Clouds)\.edj",
        (0.4, 0.85),
        0.5,
    ),
    Source(
        "endless-sky-data",
        "public domain, CC-BY-SA-3.0, CC-BY-SA-4.0",
        "usr/share/games/endless-sky/images/land",
        r".*\.jpg",
        r"[a-z]+7(-\w+)?\.jpg",
        (1 / 3, 1 / 2),
        0.25,
    ),
    Source(
        "lomiri-wallpapers-16.04",
        "CC-BY-4.0, CC-BY-SA-4.0, CC0-1.0",
        "usr/share/backgrounds",
        r"(Bridge|Dragonfly|Picture|Wine|aitzgorri|friends|greentock|life|picosdeeuropa|seeding|sunset)_.*\.jpg",
        r"(aitzgorri|Wine)_.*",
        (1 / 3, 1 / 2),
        0.12,
    ),
    Source(
        "mate-backgrounds",
        "GPL-2+",
        "usr/share/backgrounds/mate/nature",
        r"(Blinds|Dune|RainDrops|Storm|TwoWings|Wood|Garden|LadyBird|YellowFlower)\.jpg",
        r"Dune\.jpg",
        (1 / 3, 1 / 2),
        0.07,
    ),
    Source(
        "plasma-workspace-wallpapers",
        "GPL-2+ (the package), LGPL-3 (each picture)",
        "usr/share/wallpapers",
        r"(BytheWater|ColdRipple|ColorfulCups|EveningGlow|FallenLeaf|Grey|Kite|OneStandsOut|Path|summer_1am)"
        r"/contents/images/2560x1600\.jpg",
        r"(EveningGlow|Path)/.*",
        (1 / 3, 1 / 2),
        0.06,
    ),
)


def pictures(source: Source, packages: Path) -> dict[str, Path]:
    """Returns the files of a source's photographs by name.

    Raises:
        NelboError: If there are none.
    """
    folder = packages / source.package / source.folder
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found = {name: files[name] for name in sorted(files) if re.fullmatch(source.names, name)}
    if not found:
        raise NelboError(f"{folder} has no photographs: extract {source.package} into {packages / source.package}")
    return found


def opened(path: Path) -> Image.Image:
    """Returns the picture of a file, the largest JPEG stream of a theme's."""
    if path.suffix != ".edj":
        return Image.open(path).convert("RGB")
    data = path.read_bytes()
    streams = [Image.open(BytesIO(data[match.start() :])) for match in re.finditer(re.escape(START_OF_JPEG), data)]
    return max(streams, key=lambda image: image.width * image.height).convert("RGB")


def crops(image: Image.Image, name: str, factors: tuple[float, float], n: int) -> Iterator[Crops]:
    """Yields n random crops of a picture, of one reduction after another: of two places the one with more detail."""
    random = generator(f"photo crops: {name}")
    for part in np.array_split(np.arange(n), N_REDUCTIONS):
        factor = random.uniform(*factors)
        left, top = random.uniform(0, 8, 2)
        width, height = (int((side - 8) * factor) for side in image.size)
        box = (left, top, left + width / factor, top + height / factor)
        reduced = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box))
        rows = random.integers(0, height - SIZE + 1, (2, len(part)))
        columns = random.integers(0, width - SIZE + 1, (2, len(part)))
        first, second = np.lib.stride_tricks.sliding_window_view(reduced, (SIZE, SIZE, 3))[rows, columns, 0]
        yield np.where((detail(first) > detail(second))[:, None, None, None], first, second)


def detail(images: Crops) -> Float[np.ndarray, " n"]:
    """Returns the mean difference between a pixel and its right neighbour."""
    return np.abs(np.diff(images.astype(np.int16), axis=2)).mean((1, 2, 3))


def main(packages: Path, out: Path, n_train: int, n_held_out: int) -> None:
    """Writes both sets and what they are made of.

    A picture's part of its source's crops grows with the square root of its bytes: there is more to learn where there
    is more detail.
    """
    parts: dict[bool, list[Crops]] = {False: [], True: []}
    made_of: list[dict[str, str | int | bool]] = []
    for source in SOURCES:
        files = pictures(source, packages)
        for is_apart, n_crops in ((False, n_train), (True, n_held_out)):
            chosen = {
                name: path for name, path in files.items() if is_apart == bool(re.fullmatch(source.held_out, name))
            }
            weights = np.sqrt([path.stat().st_size for path in chosen.values()])
            counts = (source.share * n_crops * weights / weights.sum()).round().astype(int)
            for (name, path), n in zip(tqdm(chosen.items(), source.package, disable=None), counts, strict=True):
                key = f"{source.package}/{name}"
                parts[is_apart] += crops(opened(path), key, source.factors, n)
                made_of.append({"picture": key, "licences": source.licences, "held_out": is_apart, "crops": int(n)})
    out.mkdir(parents=True, exist_ok=True)
    for is_apart, name in ((False, "train"), (True, "held-out")):
        images = np.concatenate(parts[is_apart])
        with new_file(out / f"photo-{name}.npz") as temporary, temporary.open("wb") as stream:
            np.savez(stream, images=images[generator(f"photo order: {name}").permutation(len(images))])
    with new_file(out / "photo-sources.json") as temporary:
        temporary.write_text(json.dumps(made_of, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path)
    parser.add_argument("--out", type=Path, default=Path("data"))
    parser.add_argument("--train", type=int, default=120_000, help="training crops, about")
    parser.add_argument("--held-out", type=int, default=512, help="held-out crops, about")
    arguments = parser.parse_args()
    main(arguments.packages, arguments.out, arguments.train, arguments.held_out)
