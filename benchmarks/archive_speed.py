"""Archives of CIFAR-10 images: images a second with one worker and with two, and whether the bytes are the same.

With ``--jpeg FOLDER``, also the bytes of an archive of its JPEG files against JPEG XL's transcoding of each, as libjxl
writes it, alone.
"""

import argparse
import json
import time
from io import BytesIO
from pathlib import Path

import imagecodecs

import nelbo
from nelbo.codec.codec import Codec
from nelbo.codec.image_files import open_source
from nelbo.codec.layout import Source
from nelbo.codec.plan_store import named_plan
from nelbo.codec.reading import read_archive
from nelbo.container.entries import Entry, FileEntry
from nelbo.integer.frozen_files import FROZEN
from nelbo.integer.frozen_model import FrozenModel
from nelbo.runtime.atomic import new_file
from nelbo.runtime.bundled import bundled_images, bundled_models

MODEL, IMAGES, STEPS = "cifar10-small", "cifar10-test-256", 16


def workers(n_images: int, counts: tuple[int, ...] = (1, 2)) -> dict[str, dict[str, float]]:
    """Returns images a second of compressing, without verification, and of decompressing, by the number of workers.

    Processes are started within the time, as they are in a command.
    """
    frozen = FrozenModel.load(bundled_models()[MODEL] / FROZEN)
    codec = Codec(None, named_plan(frozen, STEPS), frozen, MODEL, n_chain=64, verify=False)
    bundled = nelbo.open_images(bundled_images()[IMAGES])
    rows = bundled.read([i % len(bundled) for i in range(n_images)]).permute(0, 2, 3, 1).contiguous().numpy()
    source = Source([Entry(f"{i:05d}.png", 32, 32, "RGB") for i in range(n_images)], lambda i: rows[i])
    results, archives = {}, []
    for n in counts:
        stream, started = BytesIO(), time.perf_counter()
        codec.write(stream, source, n_workers=n)
        written = time.perf_counter()
        for _ in read_archive(BytesIO(stream.getvalue()), frozen, n_workers=n)[1]:
            pass
        read = time.perf_counter()
        archives.append(stream.getvalue())
        results[f"{n} workers"] = {
            "encoded/s": n_images / (written - started),
            "decoded/s": n_images / (read - written),
        }
    assert len(set(archives)) == 1, "the number of workers changes the archive"
    return results


def jpeg_bytes(folder: Path) -> dict[str, float]:
    """Returns the bytes of JPEG files, of an archive of them, and of JPEG XL's transcoding of each."""
    source, stream = open_source([folder]), BytesIO()
    frozen = FrozenModel.load(bundled_models()[MODEL] / FROZEN)
    Codec(None, None, frozen, MODEL, jpeg_xl_alone=True).write(stream, source)
    files = [folder.parent / entry.name for entry in source.entries if isinstance(entry, FileEntry)]
    data = [path.read_bytes() for path in files if path.read_bytes().startswith(b"\xff\xd8")]
    alone = sum(len(imagecodecs.jpegxl_encode_jpeg(each, numthreads=1)) for each in data)
    return {"files": len(data), "JPEG": sum(map(len, data)), "archive": stream.tell(), "JPEG XL": alone}


def main(n_images: int, jpeg: Path | None, out: Path | None) -> None:
    """Prints the table; writes it as JSON."""
    results: dict[str, dict[str, float]] = workers(n_images)
    first, *others = results.values()
    for name, row in results.items():
        print(f"{name}: {row['encoded/s']:6.1f} encoded/s, {row['decoded/s']:6.1f} decoded/s")
    for row in others:
        print(f"ratio: {row['encoded/s'] / first['encoded/s']:.2f} x, {row['decoded/s'] / first['decoded/s']:.2f} x")
    if jpeg is not None:
        results["jpeg"] = found = jpeg_bytes(jpeg)
        print(f"{found['files']} JPEG files of {found['JPEG']} bytes")
        print(f"archive {found['archive']}, JPEG XL {found['JPEG XL']}: {found['archive'] / found['JPEG XL']:.4f} x")
    if out is not None:
        with new_file(out) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--jpeg", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    main(options.images, options.jpeg, options.out)
