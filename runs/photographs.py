"""Measures the codec on photographs, tiles in reading order, beside PNG, WebP and JPEG XL: whole files, won or lost.

    python runs/photographs.py photos/ --budgets 4,8 --crop 384 --out photographs.json

Each photograph is an archive of its own, one chain, verified by decoding. The archive that `nelbo compress` would write
keeps JPEG XL where that is smaller, so the size of bits-back alone stands beside it. Bits per dimension count all
bytes of the files, not the model's.
"""

import argparse
import json
from io import BytesIO
from pathlib import Path

import numpy as np
from codec import jpeg_xl_bytes, pillow_bytes

from nelbo.ans.tables import build_tables
from nelbo.codec.blocks import decode_blocks, encode_blocks
from nelbo.codec.codec import Codec
from nelbo.codec.image_files import open_source
from nelbo.codec.latent_coder import ChainCoder
from nelbo.codec.layout import Choice, Pixels, Source, Span, jpeg_xl_block
from nelbo.codec.plan_store import named_plan
from nelbo.codec.tiles import cut
from nelbo.container.entries import Entry
from nelbo.container.header import Header
from nelbo.container.records import Block
from nelbo.container.stream import ArchiveWriter
from nelbo.errors import NelboError
from nelbo.integer.frozen_files import FROZEN
from nelbo.integer.frozen_model import FrozenModel
from nelbo.runtime.atomic import new_file
from nelbo.runtime.bundled import bundled_models

Row = dict[str, float | str]


def photographs(folder: Path, crop: int | None) -> list[tuple[Entry, Pixels]]:
    """Returns the RGB images of a folder, or a square in the middle of each.

    Raises:
        NelboError: If there are none.
    """
    source = open_source([folder])
    found = []
    for i, entry in enumerate(source.entries):
        if not isinstance(entry, Entry) or entry.mode != "RGB":
            print(f"{entry.name}: {getattr(entry, 'mode', 'a file kept as bytes')} is left out")
            continue
        pixels = _middle(source.pixels(i), crop)
        found.append((Entry(entry.name, pixels.shape[1], pixels.shape[0], "RGB"), pixels))
    if not found:
        raise NelboError(f"{folder} holds no RGB images: convert some")
    return found


def _middle(pixels: Pixels, crop: int | None) -> Pixels:
    if crop is None:
        return pixels
    top, left = (max(0, side - crop) // 2 for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + crop, left : left + crop])


def classical(pixels: Pixels) -> Row:
    """Returns bits per dimension of classical lossless codecs."""
    sizes = {"PNG": pillow_bytes(pixels, "png"), "WebP": pillow_bytes(pixels, "webp")}
    sizes["JPEG XL"] = jpeg_xl_bytes(pixels, efforts=(9,))
    return {name: 8 * size / pixels.size for name, size in sizes.items()}


def ours(name: str, frozen: FrozenModel, budget: int, photos: list[tuple[Entry, Pixels]]) -> list[Row]:
    """Returns bits per dimension of an archive of each photograph, and of one without JPEG XL to fall back on.

    All are coded side by side, a lane each, which changes no byte.
    """
    plan = named_plan(frozen, budget)
    coder = ChainCoder(frozen, plan.plan, plan.gammas, build_tables())
    tiles = [cut(pixels, frozen.image_shape) for _, pixels in photos]
    chains = encode_blocks(coder, tiles, [0] * len(tiles))
    whole = [chain for chain in chains if chain is not None]
    for found, chain in zip(decode_blocks(coder, whole, frozen.image_shape), whole, strict=True):
        assert isinstance(found, np.ndarray), f"{chain} did not decode: {found}"
    codec = Codec(None, plan, frozen, name)
    return [_row(codec, budget, *photo, chain) for photo, chain in zip(photos, chains, strict=True)]


def _row(codec: Codec, budget: int, entry: Entry, pixels: Pixels, chain: Block | None) -> Row:
    source = Source([entry], lambda _: pixels)
    plain = jpeg_xl_block(codec.header(source), Span(0, 1, True), [pixels])
    archive = BytesIO()
    codec.assemble(archive, source, [[Choice.of(chain, plain)]])
    alone = float("nan") if chain is None else _n_bytes(codec.header(source), chain)
    sizes = {f"nelbo {budget}": archive.tell(), f"bits-back {budget}": alone}
    return {name: 8 * size / pixels.size for name, size in sizes.items()}


def _n_bytes(header: Header, chain: Block) -> int:
    stream = BytesIO()
    writer = ArchiveWriter(stream, header)
    writer.add(chain)
    writer.close()
    return stream.tell()


def main(folder: Path, name: str, budgets: list[int], crop: int | None, out: Path | None) -> list[Row]:
    """Prints the table and writes it as JSON."""
    photos = photographs(folder, crop)
    rows: list[Row] = [{"photograph": entry.name, "size": f"{entry.width}x{entry.height}"} for entry, _ in photos]
    for row, (_, pixels) in zip(rows, photos, strict=True):
        row |= classical(pixels)
    frozen = FrozenModel.load(bundled_models()[name] / FROZEN)
    for budget in budgets:
        for row, found in zip(rows, ours(name, frozen, budget, photos), strict=True):
            row |= found
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    if out is not None:
        with new_file(out) as temporary:
            temporary.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="cifar10-small", choices=sorted(bundled_models()))
    parser.add_argument("--budgets", default="4,8", help="network calls a tile")
    parser.add_argument("--crop", type=int, help="only a square of so many pixels in the middle")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    steps = [int(n) for n in arguments.budgets.split(",")]
    main(arguments.folder, arguments.model, steps, arguments.crop, arguments.out)
