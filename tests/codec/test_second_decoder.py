"""docs/format.md is complete: a decoder that follows it, and uses nothing of nelbo, decodes what nelbo writes."""

import ast
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import nelbo
from nelbo.ans import distributions
from nelbo.ans.distributions import gaussian
from nelbo.ans.message import Head, Message, bytes_of

GOLDEN, ASSETS = Path(__file__).parents[1] / "golden", Path(nelbo.__file__).parent / "assets"
TABLE = json.loads((GOLDEN / "archives.json").read_text())
MODELS = [GOLDEN / "small.frozen.xz", *sorted(ASSETS.glob("*/frozen.safetensors"))]
archives = pytest.mark.parametrize("name", TABLE)


@pytest.fixture
def second(script):
    return script("tests/codec/second_decoder.py")


def archive_of(second, name):
    return second.Archive((GOLDEN / f"{name}.nelbo").read_bytes())


def model_of(second, name):
    path = ASSETS / name / "frozen.safetensors"
    return second.Frozen((path if path.exists() else MODELS[0]).read_bytes())


def images_of(second, archive, blocks):
    """Yields the entry and the pixels of every image; blocks hold whole images here."""
    entries, (c, th, tw) = iter(archive.images), archive.shape
    for kind, pixels in blocks:
        while pixels:
            name, width, height, mode = next(entries)
            rows, columns = (-(-height // th), -(-width // tw)) if kind == second.BITS_BACK else (1, 1)
            tiles, pixels = pixels[: rows * columns], pixels[rows * columns :]
            if kind == second.BITS_BACK:
                whole = np.stack([tile.reshape(th, tw, c) for tile in tiles]).reshape(rows, columns, th, tw, c)
                tiles = [whole.transpose(0, 2, 1, 3, 4).reshape(rows * th, columns * tw, c)[:height, :width]]
            yield [name, width, height, mode], tiles[0]


@archives
def test_golden_archives_decode_to_their_pixel_hashes(second, name):
    archive = archive_of(second, name)
    blocks = list(second.decoded(archive, [model_of(second, name)]))
    assert [kind for kind, _ in blocks].count(second.BITS_BACK) >= 2
    found = [
        [*entry, hashlib.sha256(pixels.tobytes()).hexdigest()] for entry, pixels in images_of(second, archive, blocks)
    ]
    assert found == TABLE[name]["images"]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parent.name)
def test_frozen_models_give_their_known_answers(second, path):
    frozen = second.Frozen(path.read_bytes())
    assert frozen.text["known_gammas"]
    for i, gamma in enumerate(frozen.text["known_gammas"]):
        z, expected = (frozen.tensors[f"known.{i}.{part}"][0] for part in ("z", "result"))
        np.testing.assert_array_equal(frozen.result(z, frozen.level(gamma)[0]), expected)


def test_an_archive_with_attention_decodes(second, small_archive, small_frozen, archived, tmp_path):
    small_frozen.save(tmp_path / "small")
    archive = second.Archive(small_archive)
    blocks = second.decoded(archive, [second.Frozen((tmp_path / "small").read_bytes())])
    for (_, pixels), (entry, expected) in zip(images_of(second, archive, blocks), archived.items(), strict=True):
        np.testing.assert_array_equal(pixels, expected, entry.name)


@pytest.mark.parametrize("field", [3, 4, 5, 6, 7, 8, 9])  # The pixel hash, the message and the payload.
def test_a_changed_block_is_refused(second, field):
    archive = archive_of(second, "small-posterior-decoder")
    block = list(archive.blocks[0])
    block[field] = (
        block[field] + 1 if isinstance(block[field], int) else bytes([block[field][0] ^ 1]) + block[field][1:]
    )
    archive.blocks = [tuple(block)]
    with pytest.raises((ValueError, IndexError, ArithmeticError)):
        list(second.decoded(archive, [model_of(second, "small")]))


# The distributions in all their ranges, of which golden archives are only samples


def message(second, tail):
    """Returns a message as nelbo has it, and makes one of the second decoder of its present state."""
    words = np.random.default_rng(tail).integers(0, 2**32, 5000, dtype=np.uint32)
    first = Message.seeded(words)
    return first, lambda: second.Message(bytes_of(first.words), first.head_q, first.head_p, first.counter)


def state(each):
    return each.words, each.q, each.p, each.counter


@pytest.mark.parametrize("seed", range(4))
def test_lattice_points_are_coded_alike_and_far_ones_escaped(second, tables, seed):
    rng = np.random.default_rng(seed)
    means, rates = rng.integers(-(2**34), 2**34, 400), np.exp2(rng.uniform(14, 32, 400)).astype(np.int64)
    distances = rng.normal(0, 2 * 2**24 / rates) * np.exp2(np.where(rng.random(400) < 0.3, rng.uniform(0, 24, 400), 0))
    points = (means >> 16) + np.clip(distances, -(2**32), 2**32).astype(np.int64)
    first, copy = message(second, seed)
    before = copy()
    gaussian(tables, means, rates).push(first, Head.P, points)
    after = copy()
    np.testing.assert_array_equal(after.pop_lattice(means, rates), points)
    assert state(after) == state(before)
    drawn = gaussian(tables, means, np.full(400, rates[0]), has_escape=False).pop(first, Head.Q)
    popped = copy()
    popped.push_lattice(means, int(rates[0]), drawn)
    gaussian(tables, means, np.full(400, rates[0]), has_escape=False).push(first, Head.Q, drawn)
    assert state(popped) == state(copy())


@pytest.mark.parametrize("name", ["grey_gaussian", "grey_softmax"])
def test_grey_levels_are_coded_alike(second, tables, name):
    rng = np.random.default_rng(0)
    means, greys = rng.integers(-(2**26), 2**26 + 1, 500), rng.integers(0, 256, 500)
    means[:400] = rng.integers(-(2**20), 2**24 + 2**20, 400)
    scales = np.exp2(rng.uniform(*((14, 32) if name == "grey_gaussian" else (16, 44)), 500)).astype(np.int64)
    first, copy = message(second, 0)
    getattr(distributions, name)(tables, means, scales).push(first, Head.P, greys)
    other = copy()
    pop = getattr(other, f"pop_{name}")
    assert [pop(m, scale) for m, scale in zip(means.tolist(), scales.tolist(), strict=True)] == greys.tolist()


def test_the_decoder_is_small_and_stands_alone(second):
    text = Path(second.__file__).read_text()
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        node.module if isinstance(node, ast.ImportFrom) else alias.name for node in imports for alias in node.names
    }
    assert names - sys.stdlib_module_names == {"numpy", "imagecodecs"}
    assert text.count("\n") <= 450


def test_a_number_counts_up_only_where_the_text_says(second):
    def run(name, count):
        return bytes([0, len(name)]) + name.encode() + bytes([count, 0, 5, 7])

    assert [name for name, *_ in second.images(run("a.7/x09y.1.png", 3))] == [
        "a.7/x09y.1.png",
        "a.7/x09y.2.png",
        "a.7/x09y.3.png",
    ]
    assert [name for name, *_ in second.images(run("b/099.png", 2))] == ["b/099.png", "b/100.png"]
