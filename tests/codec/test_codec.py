"""Archives end to end: what goes in comes out, whatever the sizes, lanes and threads; damage never goes unnoticed."""

from io import BytesIO

import numpy as np
import pytest
import torch

from nelbo.codec import jpegxl
from nelbo.codec.codec import Codec
from nelbo.codec.layout import Source, is_smaller
from nelbo.codec.make_plan import embedded_plan
from nelbo.codec.plan_store import budgets_of, named_plan, with_plans
from nelbo.codec.reading import read_archive
from nelbo.codec.tiles import cut, joined, pixel_shape, pixel_type
from nelbo.container.entries import Entry
from nelbo.container.records import BlockKind
from nelbo.container.stream import read_block_at, read_places
from nelbo.errors import NelboError, WrongModelError

from fixtures.archives import always


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def schedule(schedule_of):
    return schedule_of("analytic", "causal", (0.5, 1.2, 2.0), 0.0)


@pytest.fixture(scope="module")
def codec_of(small_model, small_frozen, schedule):
    def make(policy=always, **options):
        return Codec(small_model, schedule, small_frozen, "small", policy=policy, **options)

    return make


def kinds_of(data):
    header, places = read_places(BytesIO(data))
    return [read_block_at(BytesIO(data), header, place).kind for place in places]


@pytest.mark.parametrize("n", [1, 2, 9])
def test_images_come_back(codec_of, smooth_images, n):
    images, codec = smooth_images(n), codec_of(n_chain=4, n_lanes=2)
    data = codec.compress(images)
    assert torch.equal(codec.decompress(data), images)
    assert (BlockKind.BITS_BACK in kinds_of(data)) == (n > 1)  # One image would be all seed.


def test_no_chain_is_longer_than_jpeg_xl(codec_of, smooth_images):
    images = smooth_images(30)
    data = codec_of(is_smaller).compress(images)
    assert kinds_of(data) == [BlockKind.JPEG_XL]
    alone = sum(len(jpegxl.encode(image.permute(1, 2, 0).contiguous().numpy())) for image in images)
    assert len(data) <= alone + 4 * len(images) + 300


def test_a_file_of_jpeg_xl_alone_brings_no_schedule(codec_of, small_model, small_frozen, schedule_of, smooth_images):
    images = smooth_images(2)
    longer = Codec(small_model, schedule_of("spectral", "causal"), small_frozen, "small")
    assert codec_of(is_smaller).compress(images) == longer.compress(images)
    assert torch.equal(longer.decompress(longer.compress(images)), images)


def test_one_network_call_is_a_schedule(small_model, small_frozen, schedule_of, smooth_images):
    codec = Codec(small_model, schedule_of("analytic", "causal", (0.5,), 0.0), small_frozen, "small", policy=always)
    data = codec.compress(smooth_images(3))
    assert kinds_of(data) == [BlockKind.BITS_BACK]
    assert torch.equal(codec.decompress(data), smooth_images(3))


def test_lanes_and_threads_change_nothing(codec_of, smooth_images):
    images, archives = smooth_images(12), []
    n_threads = torch.get_num_threads()
    for n_lanes, threads in ((1, 1), (3, 2)):
        torch.set_num_threads(threads)
        archives.append(codec_of(n_chain=4, n_lanes=n_lanes).compress(images))
    torch.set_num_threads(n_threads)
    assert archives[0] == archives[1]
    for n_lanes in (1, 5):
        assert torch.equal(codec_of(n_lanes=n_lanes).decompress(archives[0]), images)


MIXED = [
    Entry("a.png", 8, 8, "RGB"),
    Entry("b.png", 21, 30, "RGB"),
    Entry("c.png", 1, 1, "RGB"),
    Entry("d.png", 9, 7, "L"),
    Entry("e.png", 9, 7, "RGBA"),
    Entry("f.png", 5, 3, "LA"),
    Entry("sub/g.png", 12, 11, "I;16"),
    Entry("h.png", 17, 8, "RGB"),
]


def pixels_of(entry, seed=0):
    top = 65535 if entry.mode == "I;16" else 255
    rng = np.random.default_rng((seed, entry.width, entry.height))
    return rng.integers(0, top, pixel_shape(entry), endpoint=True).astype(pixel_type(entry))


@pytest.mark.parametrize("verify", [False, True])
def test_progress_counts_every_tile_once_while_chains_are_coded(codec_of, verify):
    stream, written, read = BytesIO(), [], []
    codec_of(n_chain=4, n_lanes=9, verify=verify).write(
        stream, Source(MIXED, lambda i: pixels_of(MIXED[i])), written.append
    )
    for _ in read_archive(BytesIO(stream.getvalue()), codec_of().frozen, 9, read.append)[1]:
        pass
    for told in (written, read):
        assert sum(told) == sum(entry.n_tiles((3, 8, 8)) for entry in MIXED)
        assert min(told) > 0
        assert len(told) > 2  # Though all chains are side by side.


def test_few_chains_are_shared_by_many_processes(codec_of, smooth_images):
    images, codec = smooth_images(12), codec_of(n_chain=4)
    rows = images.permute(0, 2, 3, 1).contiguous().numpy()
    source = Source([Entry(f"{i:05d}.png", 8, 8, "RGB") for i in range(12)], lambda i: rows[i])
    shares = [list(codec.chains(source, rank, 3)) for rank in range(3)]
    assert [[len(group) for group in share] for share in shares] == [[1], [1], [1]]
    stream = BytesIO()
    codec.assemble(stream, source, [share[0] for share in shares])
    assert stream.getvalue() == codec.compress(images)


def test_sizes_and_modes_come_back(codec_of):
    stream = BytesIO()
    codec_of(n_chain=4).write(stream, Source(MIXED, lambda i: pixels_of(MIXED[i])))
    found = list(codec_of().read(BytesIO(stream.getvalue())))
    assert [entry for entry, _ in found] == MIXED
    assert all(np.array_equal(pixels, pixels_of(entry)) for entry, pixels in found)
    assert set(kinds_of(stream.getvalue())) == {BlockKind.JPEG_XL, BlockKind.BITS_BACK}


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 8), (8, 17), (23, 5)])
def test_tiles_join_to_the_image(size):
    entry = Entry("x.png", size[1], size[0], "RGB")
    tiles = cut(pixels_of(entry), (3, 8, 8))
    assert len(tiles) == entry.n_tiles((3, 8, 8))
    assert np.array_equal(joined(tiles, entry), pixels_of(entry))


@pytest.mark.parametrize("entry", MIXED, ids=lambda entry: entry.mode + entry.name[0])
def test_jpeg_xl_is_lossless_and_states_its_size(entry):
    pixels = pixels_of(entry)
    data = jpegxl.encode(pixels)
    assert jpegxl.size_of(data) == pixels.shape[:2]
    assert np.array_equal(jpegxl.decode(data, pixels.shape, pixels.dtype), pixels)
    with pytest.raises(NelboError, match="another size"):
        jpegxl.decode(data, (pixels.shape[0] + 1, *pixels.shape[1:]), pixels.dtype)


@pytest.fixture(scope="module")
def archive(codec_of, smooth_images):
    images = smooth_images(6)
    return codec_of(n_chain=3).compress(images), images


def test_the_needed_model_is_named(archive, small_frozen, schedule_of, small_model):
    other = with_plans(small_frozen, {7: embedded_plan(small_model, schedule_of("posterior", "channels"))})
    with pytest.raises(WrongModelError, match=f"needs model small.*{small_frozen.fingerprint[:16]}.*--model"):
        list(read_archive(BytesIO(archive[0]), other)[1])


def test_plans_come_with_the_model(small_model, small_frozen, schedule, codec_of, smooth_images, tmp_path):
    frozen = with_plans(small_frozen, {3: embedded_plan(small_model, schedule)})
    frozen.save(tmp_path / "frozen.safetensors")
    loaded = type(frozen).load(tmp_path / "frozen.safetensors")
    assert budgets_of(loaded) == [3]
    codec, images = Codec(None, named_plan(loaded, 3), loaded, "small", policy=always), smooth_images(4)
    data = codec.compress(images)
    assert torch.equal(codec.decompress(data), images)
    assert len(data) < len(codec_of().compress(images))
    assert (
        Codec(small_model, schedule, loaded, "small", policy=always).compress(images) == data
    )  # A schedule that is one of them.
    with pytest.raises(NelboError, match="no plan of 4 steps"):
        named_plan(loaded, 4)


DAMAGED = {
    "cut": lambda body: body[:20],
    "of another type": lambda body: body.int(),
    "in rows": lambda body: body[None],
    "of an unreadable kernel": lambda body: torch.cat([body[:8], body[:16] | 128, body[24:]]),
    "changed": lambda body: torch.cat([body[:40], body[40:] ^ 1]),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_plans_of_a_model_are_refused(name, small_model, small_frozen, schedule):
    frozen = with_plans(small_frozen, {3: embedded_plan(small_model, schedule)})
    frozen.tensors["plan.3"] = DAMAGED[name](frozen.tensors["plan.3"])
    with pytest.raises(NelboError, match="the model's plan of 3 steps is damaged: "):
        named_plan(frozen, 3)


def test_the_codec_refuses_what_it_cannot_do(codec_of, small_model, small_frozen, schedule, smooth_images):
    with pytest.raises(NelboError, match="only decompress"):
        Codec(None, None, small_frozen).compress(smooth_images(1))
    with pytest.raises(NelboError, match="at least 1 image"):
        codec_of(n_chain=0)
    with pytest.raises(NelboError, match="1 or 3 channels"):
        codec_of().compress(torch.zeros((1, 2, 8, 8), dtype=torch.uint8))
    with pytest.raises(NelboError, match="together with the model"):
        Codec(None, schedule, small_frozen)
