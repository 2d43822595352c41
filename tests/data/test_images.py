"""Whatever images are stored in, the same pixels come out; all but 8-bit images of one size are refused."""

import gzip
import io
import multiprocessing
import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nelbo.data import from_array, open_images
from nelbo.data.folder import FolderSource
from nelbo.errors import NelboError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def pixels_nhwc(n_channels, n=7, height=5, width=9):
    shape = (n, height, width, n_channels)
    return np.random.default_rng(n_channels).integers(0, 256, shape, dtype=np.uint8)


def image(pixels):
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def encoded(picture, kind="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def tensor(pixels):
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


# Every format, by how a file of it is made


def as_folder(folder, pixels, suffix=".png"):
    path = folder / "images"
    for i, picture in enumerate(pixels):
        target = path / f"part{i // 3}" / f"{i:03}{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        image(picture).save(target)
    (path / "notes.txt").write_text("not an image")
    (path / "._000.png").write_text("what macOS leaves behind")
    return path


def as_zip(folder, pixels):
    root = as_folder(folder, pixels)
    with zipfile.ZipFile(folder / "images.ZIP", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*"), reverse=True):  # The order in the archive does not count.
            archive.write(file, file.relative_to(root))
    return folder / "images.ZIP"


def saved_npz(folder, **arrays):
    np.savez_compressed(folder / "images.npz", **arrays)
    return folder / "images.npz"


def as_npy(folder, pixels):
    np.save(folder / "images.npy", pixels)
    return folder / "images.npy"


def as_parquet(folder, column, name="image"):
    pq.write_table(pa.table({"label": pa.array(range(len(column))), name: column}), folder / "images.parquet")
    return folder / "images.parquet"


def as_structs(folder, pixels):
    return as_parquet(folder, pa.array([{"bytes": encoded(image(p)), "path": "x.png"} for p in pixels]), "img")


def as_binary(folder, pixels):
    return as_parquet(folder, pa.array([encoded(image(p)) for p in pixels]), "pictures")


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def as_idx(folder, pixels, pack: Callable[[bytes], bytes] = bytes):
    (folder / "train-images-idx3-ubyte").write_bytes(pack(idx_bytes(pixels[..., 0])))
    return folder / "train-images-idx3-ubyte"


ANY = {
    "folder": as_folder,
    "folder of bmp": lambda folder, pixels: as_folder(folder, pixels, ".BMP"),
    "folder of tiff": lambda folder, pixels: as_folder(folder, pixels, ".tif"),
    "folder of ppm": lambda folder, pixels: as_folder(folder, pixels, ".ppm"),
    "zip": as_zip,
    "npz nhwc": lambda folder, pixels: saved_npz(folder, images=pixels),
    "npz nchw": lambda folder, pixels: saved_npz(folder, images=np.moveaxis(pixels, -1, 1)),
    "npz of another name": lambda folder, pixels: saved_npz(folder, x=pixels, mean=np.zeros(3)),
    "npy": as_npy,
    "parquet of structures": as_structs,
    "parquet of binary": as_binary,
}
GREY = {
    "npz nhw": lambda folder, pixels: saved_npz(folder, images=pixels[..., 0]),
    "idx": as_idx,
    "idx.gz": lambda folder, pixels: as_idx(folder, pixels, gzip.compress),
}
CASES = [(name, 3) for name in ANY] + [(name, 1) for name in ANY | GREY]


@pytest.mark.parametrize(("kind", "n_channels"), CASES)
def test_every_format_gives_back_the_pixels(tmp_path, kind, n_channels):
    pixels = pixels_nhwc(n_channels)
    path = (ANY | GREY)[kind](tmp_path, pixels)
    images = open_images(str(path))
    assert images.name == str(path)
    assert images.shape == (n_channels, 5, 9)
    assert len(images) == len(pixels)
    for indices in [range(7), [3], [6, 0, 0], np.array([2, 5], np.int32), []]:
        found = images.read(indices)
        assert found.is_contiguous()
        torch.testing.assert_close(found, tensor(pixels)[list(indices)], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ANY)
def test_every_format_survives_fork_and_pickle(tmp_path, kind):
    pixels = pixels_nhwc(3)
    images = open_images(ANY[kind](tmp_path, pixels))
    images.read([0])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images)).read([1]), tensor(pixels)[[1]])
    if kind == "zip":  # The one source that keeps a file open.
        process = multiprocessing.get_context("fork").Process(target=read_often, args=(images, pixels))
        process.start()
        read_often(images, pixels)
        process.join()
        assert process.exitcode == 0


def read_often(images, pixels):
    for _ in range(30):
        np.testing.assert_array_equal(images.read(range(7)).numpy(), np.moveaxis(pixels, -1, 1))


@given(st.lists(st.integers(0, 6)), st.data())
def test_selecting_is_indexing(chosen, data):
    pixels, labels = pixels_nhwc(3), np.arange(7, dtype=np.uint8)
    view = from_array(pixels, labels=labels).select(chosen)
    assert len(view) == len(chosen)
    assert view.labels is not None
    np.testing.assert_array_equal(view.labels, labels[chosen])
    inner = data.draw(st.lists(st.integers(0, len(chosen) - 1))) if chosen else []
    expected = tensor(pixels)[np.array(chosen, int)[inner]]
    torch.testing.assert_close(view.read(inner), expected, rtol=0, atol=0)
    torch.testing.assert_close(view.select(inner).read(range(len(inner))), expected, rtol=0, atol=0)


def test_ambiguous_layouts_follow_the_library():
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    torch.testing.assert_close(from_array(pixels).read([0, 1]), tensor(pixels))
    torch.testing.assert_close(from_array(torch.from_numpy(pixels)).read([0, 1]), torch.from_numpy(pixels))


def test_reading_decodes_only_what_is_asked_for(tmp_path, monkeypatch):
    images = open_images(as_folder(tmp_path, pixels_nhwc(3)))
    opened, original = [], FolderSource.open
    monkeypatch.setattr(FolderSource, "open", lambda self, i: opened.append(i) or original(self, i))
    images.select([1, 4, 6]).read([2, 0])
    assert opened == [6, 1]


def test_opening_decodes_no_pixels(tmp_path, monkeypatch):
    path = as_folder(tmp_path, pixels_nhwc(3))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert len(open_images(path)) == 7


def test_an_npy_is_mapped_not_read(tmp_path):
    path = as_npy(tmp_path, np.zeros((7, 5, 9, 3), np.uint8))
    images = open_images(path)
    with path.open("r+b") as stream:
        stream.seek(-1, io.SEEK_END)
        stream.write(b"\x07")
    assert images.read([6])[0, 2, 4, 8] == 7


@pytest.mark.parametrize("bad", [[7], [-1], [0, 9]])
def test_an_index_out_of_range_is_an_index_error(bad):
    images = from_array(pixels_nhwc(3))
    for act in (images.read, images.select):
        with pytest.raises(IndexError, match="out of range for 7 images"):
            act(bad)


# Labels


def test_npz_labels(tmp_path):
    images = open_images(saved_npz(tmp_path, images=pixels_nhwc(1), labels=np.arange(7, dtype=np.uint8)))
    assert images.labels is not None
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == list(range(7))


@pytest.mark.parametrize(("name", "pack"), [("idx3-ubyte", bytes), ("idx3-ubyte.gz", gzip.compress)])
def test_idx_labels_lie_beside_the_images(tmp_path, name, pack):
    path = tmp_path / f"t10k-images-{name}"
    path.write_bytes(pack(idx_bytes(pixels_nhwc(1)[..., 0])))
    assert open_images(path).labels is None
    (tmp_path / f"t10k-labels-{name.replace('3', '1')}").write_bytes(pack(idx_bytes(np.arange(7, dtype=np.uint8))))
    labels = open_images(path).labels
    assert labels is not None
    assert labels.tolist() == list(range(7))


@pytest.mark.parametrize("labels", [np.arange(6), np.zeros(7), np.zeros((7, 1), int)])
def test_labels_are_one_integer_per_image(tmp_path, labels):
    with pytest.raises(NelboError, match="expected 7 integers"):
        open_images(saved_npz(tmp_path, images=pixels_nhwc(1), labels=labels))


# Refusals


def refusal(path):
    with pytest.raises(NelboError) as caught:
        open_images(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def png_of_16_bit_rgb():
    """Pillow writes none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(9 * 6) for _ in range(5))
    header = struct.pack(">IIBBBBB", 9, 5, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def tiff_of_16_bit_rgb():
    """Pillow writes none."""
    tags = [(256, 3, 1, 9), (257, 3, 1, 5), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 134), (277, 3, 1, 3), (278, 3, 1, 5), (279, 4, 1, 270)]
    ifd = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 14) + struct.pack("<3H", 16, 16, 16) + ifd + bytes(6 + 270)


def animation(kind):
    frames = [Image.new("RGB", (9, 5), colour) for colour in ("red", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


RGB = Image.new("RGB", (9, 5), "red")
UNSUITABLE = {
    "alpha.png": (encoded(RGB.convert("RGBA")), "RGB with alpha"),
    "alpha.webp": (encoded(Image.new("RGBA", (9, 5), (9, 9, 9, 9)), "WEBP", lossless=True), "RGB with alpha"),
    "grey_alpha.png": (encoded(RGB.convert("LA")), "grey with alpha"),
    "palette.png": (encoded(RGB.convert("P")), "palette"),
    "palette.gif": (encoded(RGB.convert("P"), "GIF"), "palette"),
    "one_bit.png": (encoded(RGB.convert("1")), "1-bit"),
    "cmyk.jpg": (encoded(RGB.convert("CMYK"), "JPEG"), "mode CMYK"),
    "float.tif": (encoded(RGB.convert("F"), "TIFF"), "floating point"),
    "grey16.png": (encoded(Image.fromarray(np.zeros((5, 9), np.uint16))), "16-bit"),
    "rgb16.png": (png_of_16_bit_rgb(), "not 8 bits a channel"),
    "rgb16.tif": (tiff_of_16_bit_rgb(), "not 8 bits a channel"),
    "rgb16.ppm": (b"P6 9 5 65535\n" + bytes(270), "not 8 bits a channel"),
    "few_levels.pgm": (b"P5 9 5 100\n" + bytes(45), "not 8 bits a channel"),
    "plain.pgm": (b"P2 9 5 100\n" + b"0 " * 45, "not 8 bits a channel"),
    "transparent.png": (encoded(RGB, transparency=(255, 0, 0)), "a transparent colour"),
    "animated.png": (animation("PNG"), "several frames"),
    "animated.webp": (animation("WEBP"), "several frames"),
    "pages.tif": (animation("TIFF"), "several frames"),
    "text.png": (b"this is no image", "not a readable image"),
    "empty.png": (b"", "not a readable image"),
    "cut.png": (encoded(RGB)[:20], ""),
}


@pytest.mark.parametrize("name", UNSUITABLE)
def test_unsuitable_images_are_refused(tmp_path, name):
    data, reason = UNSUITABLE[name]
    path = as_folder(tmp_path, pixels_nhwc(3))
    (path / name).write_bytes(data)
    message = refusal(path)
    assert f"1 of 8 images cannot be used: {name} ({reason}" in message
    assert "modes RGB or L" in message


def test_an_unsuitable_image_alone_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(UNSUITABLE["palette.png"][0])
    assert "1 of 1 images cannot be used: a.png (palette)" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "zip", "parquet"])
def test_all_images_at_fault_are_counted_and_three_named(tmp_path, kind):
    good, odd = encoded(Image.new("L", (9, 5))), encoded(Image.new("L", (9, 6)))
    files = {f"{i}.png": good for i in range(6)} | {
        "7.png": odd,
        "8.png": encoded(RGB),
        "9.png": b"",
        "x.png": b"",
    }
    if kind == "folder":
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        path, first = tmp_path, "7.png"
    elif kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        path, first = tmp_path / "a.zip", "7.png"
    else:
        path, first = as_parquet(tmp_path, pa.array(list(files.values()))), "row 6"
    message = refusal(path)
    assert f"4 of 10 images cannot be used: {first} (grey 9x6 where most are grey 9x5), " in message
    assert "(RGB 9x5 where most are grey 9x5), " in message
    assert " and 1 more; convert all to 8-bit RGB or greyscale" in message


def cut(path, n_bytes):
    path.write_bytes(path.read_bytes()[:-n_bytes])


def test_a_body_cut_short_is_reported_by_read(tmp_path):
    path = as_folder(tmp_path, pixels_nhwc(3))
    cut(path / "part0" / "001.png", 40)
    images = open_images(path)
    images.read([0, 2])
    with pytest.raises(NelboError, match=r"part0/001\.png cannot be read: .*truncated"):
        images.read([0, 1])


def test_an_archive_member_with_a_flipped_bit_is_reported_by_read(tmp_path):
    path, bmp = tmp_path / "a.zip", encoded(RGB.resize((99, 99)), "BMP")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.bmp", bmp)
    data = path.read_bytes()
    end = data.index(bmp) + len(bmp)
    path.write_bytes(data[: end - 1] + bytes([data[end - 1] ^ 1]) + data[end:])
    images = open_images(path)
    with pytest.raises(NelboError, match=r"a\.zip: a\.bmp cannot be read: Bad CRC"):
        images.read([0])


def test_a_file_that_changed_or_vanished_is_reported_by_read(tmp_path):
    path = as_folder(tmp_path, pixels_nhwc(3))
    images = open_images(path)
    RGB.resize((4, 4)).save(path / "part0" / "000.png")
    (path / "part0" / "001.png").unlink()
    with pytest.raises(NelboError, match=r"000\.png cannot be read: its size or mode has changed"):
        images.read([0])
    with pytest.raises(NelboError, match=r"001\.png cannot be read: .*No such file"):
        images.read([1])


def test_rows_without_bytes_are_refused(tmp_path):
    column = pa.array([{"bytes": encoded(RGB), "path": ""}, None, {"bytes": None, "path": "a.png"}])
    assert "2 of 3 images cannot be used: row 1 (holds no bytes), row 2" in refusal(as_parquet(tmp_path, column))


def test_paths_that_are_no_data_set_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("")
    RGB.save(tmp_path / "a.png")
    assert "does not exist: pass a folder" in refusal(tmp_path / "nowhere")
    assert "is no data set: pass a folder" in refusal(tmp_path / "a.txt")
    assert "is no data set: pass a folder" in refusal(tmp_path / "a.png")


def test_a_folder_of_data_sets_names_them(tmp_path):
    assert "holds no image files: pass a folder of PNG" in refusal(tmp_path)
    saved_npz(tmp_path, images=pixels_nhwc(1))
    as_structs(tmp_path, pixels_nhwc(1))
    as_idx(tmp_path, pixels_nhwc(1))
    (tmp_path / "b.zip").write_bytes(b"")
    message = refusal(tmp_path)
    assert "images.npz" in message
    assert "images.parquet" in message
    assert " and 1 more" in message
    for name in ("images.npz", "images.parquet", "b.zip"):
        (tmp_path / name).unlink()
    assert "train-images-idx3-ubyte" in refusal(tmp_path)


EMPTY = {
    "zip": lambda folder: as_zip(folder, []),
    "npz": lambda folder: saved_npz(folder, images=np.zeros((0, 4, 4, 3), np.uint8)),
    "npz without width": lambda folder: saved_npz(folder, images=np.zeros((4, 4, 0), np.uint8)),
    "npy": lambda folder: as_npy(folder, np.zeros((0, 4, 4, 3), np.uint8)),
    "parquet": lambda folder: as_parquet(folder, pa.array([], pa.binary())),
    "idx": lambda folder: as_idx(folder, np.zeros((0, 4, 4, 1), np.uint8)),
}


@pytest.mark.parametrize("kind", EMPTY)
def test_nothing_is_refused(tmp_path, kind):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").write_text("")
    message = refusal(EMPTY[kind](tmp_path))
    assert "is empty" in message or "holds no image files" in message


@pytest.mark.parametrize("kind", ["zip", "npz nhwc", "npy", "parquet of binary", "idx", "idx.gz"])
@pytest.mark.parametrize("n_left", [0, 3, 9, 60])
def test_a_file_cut_short_is_refused(tmp_path, kind, n_left):
    path = (ANY | GREY)[kind](tmp_path, pixels_nhwc(1))
    cut(path, path.stat().st_size - n_left)
    refusal(path)


@pytest.mark.parametrize("kind", ["zip", "npz nhwc", "npy", "parquet of binary", "idx", "idx.gz"])
def test_a_file_without_its_end_is_refused(tmp_path, kind):
    path = (ANY | GREY)[kind](tmp_path, pixels_nhwc(1))
    cut(path, 5)
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("kind", ["npz nhwc", "npy", "zip", "parquet of binary"])
def test_a_file_of_another_kind_is_refused(tmp_path, kind):
    path = ANY[kind](tmp_path, pixels_nhwc(1))
    path.write_text("<html>404</html>" * 9)
    assert "damaged or no" in refusal(path)


ARRAYS = [np.zeros(s, t) for s in [(7, 5, 9, 3), (7, 5, 9)] for t in (np.float32, np.uint16, np.int64, bool)]
ARRAYS += [np.zeros(s, np.uint8) for s in [(7,), (5, 9), (7, 5, 9, 4), (7, 2, 9, 5), (1, 7, 5, 9, 3)]]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype} {array.shape}")
def test_other_arrays_are_refused(tmp_path, array):
    for path in (as_npy(tmp_path, array), saved_npz(tmp_path, images=array)):
        assert f"holds {array.dtype} of shape {array.shape}: expected uint8 pixels" in refusal(path)
    for value in (array, torch.from_numpy(array)):
        with pytest.raises(NelboError, match=r"photos holds .* expected uint8"):
            from_array(value, "photos")


def test_an_npz_must_tell_which_array(tmp_path):
    pixels = pixels_nhwc(1)
    assert "2 arrays of images among ['a', 'b']" in refusal(saved_npz(tmp_path, a=pixels, b=pixels))
    assert "no array of images among ['a']" in refusal(saved_npz(tmp_path, a=np.zeros(3)))
    assert "damaged" in refusal(saved_npz(tmp_path, images=np.array([{}, {}])))


def test_a_parquet_must_tell_which_column(tmp_path):
    assert "no column of encoded images among ['label', 'x']" in refusal(as_parquet(tmp_path, pa.array([1]), "x"))
    table = pa.table({name: pa.array([encoded(RGB)]) for name in "ab"})
    pq.write_table(table, tmp_path / "images.parquet")
    assert "2 columns of encoded images among ['a', 'b']" in refusal(tmp_path / "images.parquet")
    pq.write_table(table.append_column("image", pa.array([encoded(RGB)])), tmp_path / "images.parquet")
    assert len(open_images(tmp_path / "images.parquet")) == 1


def test_pyarrow_is_asked_for_when_missing(tmp_path, monkeypatch):
    path = as_binary(tmp_path, pixels_nhwc(1))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install nelbo[data]" in refusal(path)


def test_damaged_idx_labels_are_refused(tmp_path):
    path = as_idx(tmp_path, pixels_nhwc(1))
    labels: Path = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.arange(6, dtype=np.uint8)))
    assert "expected 7 integers" in refusal(path)
    for content in (b"something else", b""):
        labels.write_bytes(content)
        with pytest.raises(NelboError, match="labels-idx1-ubyte does not begin as an idx file"):
            open_images(path)


def test_arrays_and_archives_under_each_others_names_are_refused(tmp_path):
    array = np.zeros((2, 4, 4), np.uint8)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", images=array)
    (tmp_path / "a.npy").rename(tmp_path / "array.npz")
    (tmp_path / "b.npz").rename(tmp_path / "archive.npy")
    with zipfile.ZipFile(tmp_path / "pictures.npz", "w") as archive:
        archive.writestr("x.png", b"no array")
    for name in ("array.npz", "archive.npy", "pictures.npz"):
        with pytest.raises(NelboError, match=name):
            open_images(tmp_path / name)


@pytest.mark.parametrize("kind", ["npy", "npz nhwc", "zip", "parquet of binary"])
def test_damaged_heads_are_refused_in_one_line_or_read(kind, tmp_path):
    path = ANY[kind](tmp_path, pixels_nhwc(3))
    whole, rng, refusals = path.read_bytes(), np.random.default_rng(0), []
    ends = [*range(min(128, len(whole))), *range(max(0, len(whole) - 300), len(whole))]
    for number in range(400):
        data = bytearray(whole)
        for at in rng.choice(ends, 1 + number % 3):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            images = open_images(path)
            images.read(range(len(images)))
        except NelboError as error:
            refusals.append(str(error))
    assert refusals
    assert not any("\n" in refusal for refusal in refusals)


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes with names there")
def test_pipes_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    os.mkfifo(tmp_path / "x.npz")
    with pytest.raises(NelboError, match="holds no image files"):
        open_images(tmp_path)
    with pytest.raises(NelboError, match="no regular file"):
        open_images(tmp_path / "x.npz")
