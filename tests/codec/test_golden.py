"""Golden archives: every later version decodes them, to the very pixels, and writes them again as they are."""

import hashlib
import json
import lzma
from io import BytesIO
from pathlib import Path

import imagecodecs
import pytest

from nelbo.codec.codec import Codec
from nelbo.codec.layout import Source
from nelbo.codec.plan_store import StoredPlan, find_plan
from nelbo.codec.reading import read_archive
from nelbo.container.records import BlockKind
from nelbo.container.stream import read_block_at, read_places
from nelbo.integer.frozen_files import FROZEN
from nelbo.integer.frozen_model import FrozenModel
from nelbo.runtime.bundled import bundled_models

from fixtures.archives import always

GOLDEN = Path(__file__).parents[1] / "golden"
TABLE = json.loads((GOLDEN / "archives.json").read_text())
archives = pytest.mark.parametrize("name", TABLE)


@pytest.fixture(scope="module")
def frozen_of(tmp_path_factory):
    """Loads the frozen model of an archive, once."""
    known, small = {}, tmp_path_factory.mktemp("golden") / "small"
    small.write_bytes(lzma.decompress((GOLDEN / "small.frozen.xz").read_bytes()))

    def load(name):
        path = bundled_models()[name] / FROZEN if name in bundled_models() else small
        known[path] = known.get(path) or FrozenModel.load(path)
        return known[path]

    return load


@pytest.fixture(scope="module")
def decoded(frozen_of):
    """Decodes an archive, once: its bytes, its header and its images."""
    known = {}

    def decode(name):
        if name not in known:
            data = (GOLDEN / f"{name}.nelbo").read_bytes()
            header, images = read_archive(BytesIO(data), frozen_of(name))
            known[name] = data, header, list(images)
        return known[name]

    return decode


@archives
def test_golden_archives_decode(name, decoded):
    data, header, images = decoded(name)
    found = [
        [e.name, e.width, e.height, e.mode, hashlib.sha256(p.astype(p.dtype.newbyteorder("<")).tobytes()).hexdigest()]
        for e, p in images
    ]
    assert found == TABLE[name]["images"]
    _, places = read_places(BytesIO(data))
    kinds = [read_block_at(BytesIO(data), header, place).kind for place in places]
    assert kinds.count(BlockKind.BITS_BACK) >= 2
    assert BlockKind.JPEG_XL in kinds


def test_every_kernel_and_every_kind_of_exit_is_there(decoded, frozen_of):
    headers = {name: decoded(name)[1] for name in TABLE}
    plans = [find_plan(header.plan, header.gammas, frozen_of(name)) for name, header in headers.items()]
    assert {header.kernel for header in headers.values()} == {"posterior", "analytic", "spectral"}
    assert {(plan.exit, len(plan.offsets) > 0) for plan in plans} == {(0, False), (1, False), (1, True)}
    assert {header.plan[:1] for header in headers.values()} == {b"\0", b"\1"}  # In the header, and with the model.


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in bundled_models())) for n in TABLE])
def test_golden_archives_are_written_again(name, decoded, frozen_of):
    """Seeds and some members are JPEG XL files, whose bytes another version of that library may choose otherwise."""
    if imagecodecs.jpegxl_version() != TABLE[name]["libjxl"]:
        pytest.skip(f"{name}.nelbo was written with {TABLE[name]['libjxl']}")
    data, header, images = decoded(name)
    frozen, pixels, stream = frozen_of(name), [each for _, each in images], BytesIO()
    plan = find_plan(header.plan, header.gammas, frozen)
    stored = StoredPlan(plan, header.gammas, header.kernel, header.kappa, header.plan)
    codec = Codec(None, stored, frozen, header.model_name, n_chain=4, verify=False, policy=always)
    codec.write(stream, Source(header.entries, lambda i: pixels[i]))
    assert stream.getvalue() == data
