"""Measures the codec: bound, net bits and whole files at several budgets and numbers of images, and classical codecs.

    python runs/codec.py cifar10-small --data cifar10-test.npz --images 1,10,100,1000 --budgets 4,8,16 --out codec.json

With ``--budgets ""`` it measures the classical codecs instead. Every file is decoded and compared, so the codec does
not verify it once more, and each result is written as it comes; the same command goes on with what is missing.
Bits per dimension count all bytes of the file; the model's bytes are listed apart.
The bound is that of the same schedule on the same images, with fresh noise; net bits are those that all images but the
seeds added to their message.
"""

import argparse
import json
import math
import time
from collections.abc import Collection, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import torch
from PIL import Image

import nelbo
from nelbo.codec.codec import Codec
from nelbo.codec.plan_store import named_plan
from nelbo.container.records import BlockKind
from nelbo.container.stream import read_block_at, read_places
from nelbo.data.images import Images
from nelbo.integer.frozen_files import FROZEN
from nelbo.integer.frozen_model import FrozenModel
from nelbo.runtime.atomic import new_file
from nelbo.runtime.bundled import bundled_models
from nelbo.time_schedule.error_table import load_table

EFFORTS = (7, 8, 9)  # Of JPEG XL.
PILLOW = {"png": {"optimize": True}, "webp": {"lossless": True, "quality": 100, "method": 6}}


def main(name: str, data: str, counts: list[int], budgets: list[int], n_chain: int, out: Path | None) -> None:
    """Prints the tables and writes them as JSON."""
    folder = bundled_models()[name]
    frozen, images = FrozenModel.load(folder / FROZEN), nelbo.open_images(data)
    sizes = {"weights": (folder / "model.safetensors").stat().st_size, "frozen": (folder / FROZEN).stat().st_size}
    print(f"model bytes, not counted below: {sizes}; bits per dimension, all bytes of the files")
    setting = {"images_a_chain": n_chain, "images_of_bound": max(counts)}
    of = {"model": name, "frozen": frozen.fingerprint, "data": Path(data).name, **setting}
    rows = known_rows(out, of)
    result = {"of": of, "model_bytes": sizes, "rows": rows}
    done = [(row.get("budget"), row["n_images"]) for row in rows]
    for row in measured(name, frozen, images, counts, budgets, n_chain, done):
        print(line(row), flush=True)
        rows.append(row)
        if out is not None:
            with new_file(out) as temporary:
                temporary.write_text(json.dumps(result, indent=1))


def known_rows(out: Path | None, of: dict[str, str | int]) -> list[dict[str, float]]:
    """Returns the rows of an earlier run of the same model, images and chains."""
    found = {} if out is None or not out.exists() else json.loads(out.read_text())
    return found["rows"] if found.get("of") == of else []


def measured(
    name: str,
    frozen: FrozenModel,
    images: Images,
    counts: list[int],
    budgets: list[int],
    n_chain: int,
    done: Collection[tuple[float | None, float]],
) -> Iterator[dict[str, float]]:
    """Yields the rows of the table that are not done: ours, or without budgets those of classical codecs."""
    for n in counts if not budgets else []:
        if (None, n) not in done:
            yield {"n_images": n, **classical(images, n)}
    for budget in budgets:
        missing = [n for n in counts if (budget, n) not in done]
        if not missing:
            continue
        bound, error = measured_bound(name, images.select(range(max(counts))), budget)
        codec = Codec(None, named_plan(frozen, budget), frozen, name, n_chain, verify=False)
        for n in missing:
            yield {"budget": budget, "n_images": n, "bound": bound, "bound_error": error, **file_of(codec, images, n)}


def line(row: dict[str, float]) -> str:
    """Returns a row for people."""
    return "  ".join(
        f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )


def file_of(codec: Codec, images: Images, n: int) -> dict[str, float]:
    """Returns the cost of an archive of the first n images, and the seconds each way; checks every pixel."""
    pixels = images.read(range(n))
    start = time.perf_counter()
    data = codec.compress(pixels)
    middle = time.perf_counter()
    assert torch.equal(codec.decompress(data), pixels), "the archive does not give the images back"
    end = time.perf_counter()
    header, places = read_places(BytesIO(data))
    chains = [read_block_at(BytesIO(data), header, place) for place in places]
    coded = [chain for chain in chains if chain.kind is BlockKind.BITS_BACK]
    n_coded = sum(chain.n_tiles - chain.n_seed_tiles for chain in coded)
    heads = sum(math.log2(chain.head_q) + math.log2(chain.head_p) - 64 for chain in coded)
    n_bits = sum(8 * (len(chain.payload) - chain.n_seed_bytes) for chain in coded) + heads
    net = n_bits / (n_coded * pixels[0].numel()) if n_coded else math.nan
    return {
        "net": net,
        "file": 8 * len(data) / pixels.numel(),
        "compress_seconds": middle - start,
        "decompress_seconds": end - middle,
    }


def measured_bound(name: str, images: Images, budget: int) -> tuple[float, float]:
    """Returns the bound of a bundled model's schedule on images, and its standard error over images."""
    model = nelbo.load(name)
    table = load_table(bundled_models()[name] / "errors.safetensors")
    result = nelbo.evaluate(model, images, nelbo.optimal_schedules(table, [budget])[budget], batch_size=16)
    return result.bpd, result.standard_error


def classical(images: Images, n: int) -> dict[str, float]:
    """Returns bits per dimension of classical lossless codecs: a file an image, and JPEG XL of one mosaic."""
    rows = images.read(range(n)).permute(0, 2, 3, 1).numpy()
    rows = rows[..., 0] if rows.shape[-1] == 1 else rows
    sizes = {kind: sum(pillow_bytes(row, kind) for row in rows) for kind in PILLOW}
    sizes["jpeg_xl"] = sum(jpeg_xl_bytes(row) for row in rows)
    sizes["jpeg_xl_mosaic"] = jpeg_xl_bytes(mosaic(rows))
    return {kind: 8 * size / rows.size for kind, size in sizes.items()}


def pillow_bytes(pixels: np.ndarray, kind: str) -> int:
    """Returns the size of a file of a kind that Pillow writes, at its best settings."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, kind, **PILLOW[kind])
    return stream.tell()


def jpeg_xl_bytes(pixels: np.ndarray, efforts: Sequence[int] = EFFORTS) -> int:
    """Returns the size of a JPEG XL file at the effort that makes it smallest, which is not always the highest."""
    pixels = np.ascontiguousarray(pixels)
    return min(len(imagecodecs.jpegxl_encode(pixels, lossless=True, effort=effort, numthreads=1)) for effort in efforts)


def mosaic(rows: np.ndarray) -> np.ndarray:
    """Returns images side by side in a rectangle that is nearly square, the last row filled up with the last image."""
    side = math.ceil(math.sqrt(len(rows)))
    filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % side, 0)])
    lines = [np.concatenate(list(filled[i : i + side]), 1) for i in range(0, len(filled), side)]
    return np.concatenate(lines, 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", default="1,10,100,1000")
    parser.add_argument("--budgets", default="4,8,16,32")
    parser.add_argument("--chain", type=int, default=256)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    counts, budgets = ([int(n) for n in text.split(",") if n] for text in (arguments.images, arguments.budgets))
    main(arguments.model, arguments.data, counts, budgets, arguments.chain, arguments.out)
