"""``nelbo import``: one folder for a good checkpoint, one line and no folder for any other file."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nelbo
from nelbo.cli.main import main
from nelbo.errors import NelboError
from nelbo.interop.official_vdm import read_official_vdm

GOLDEN = Path(__file__).parents[1] / "golden" / "official_vdm_scalar.flax"
CONV_IN, CONV_OUT = "score_model/conv_in/kernel", "score_model/conv_out/kernel"


def ones(*shape):
    return np.ones(shape, "f4")


WRONG_PARAMS = {  # The parameter to replace, its value (None removes it), and what the message must say.
    "missing": ("score_model/mid.attn_1/k/bias", None, "lack 'score_model/mid.attn_1/k/bias'"),
    "a missing block": ("score_model/up.block_1", None, "up.block_1/GroupNorm_1/bias' and 8 more"),
    "a missing first layer": ("score_model/conv_in", None, "lack score_model/conv_in/kernel"),
    "another network": ("score_model", None, "lack score_model/conv_in/kernel"),
    "unexpected": ("score_model/extra/kernel", ones(2, 2), "unexpectedly, 'score_model/extra/kernel'"),
    "a gap in the blocks": ("score_model/down.block_7/conv1/bias", ones(32), "lack 'score_model/down.block"),
    "another shape": ("score_model/dense1/kernel", ones(128, 64), "(128, 64), expected (128, 128)"),
    "a transposed shape": ("score_model/dense0/kernel", ones(128, 33), "(128, 33), expected (33, 128)"),
    "too few axes": (CONV_IN, ones(15, 32), "expected four axes"),
    "no known features": (CONV_IN, ones(3, 3, 4, 32), "conv_in reads 4 channels and conv_out writes 3"),
    "odd channels": (CONV_IN, ones(3, 3, 15, 33), "n_channels"),
    "no channels": (CONV_OUT, ones(3, 3, 32, 0), "is empty"),
    "an empty kernel": (CONV_IN, ones(0, 3, 15, 2**30), "is empty"),
    "a network past memory": (CONV_IN, ones(1, 1, 15, 320000), "expected"),
    "not a number": ("score_model/conv_out/bias", ones(3) * np.nan, "not finite are 'score_model/conv_out"),
    "infinite": ("gamma/w", ones(1) * np.inf, "not finite are 'gamma/w'"),
    "a flat schedule": ("gamma/w", ones(1) * 0, "a noise schedule increases"),
    "two widths": ("gamma/w", ones(2), "gamma/w has shape (2,)"),
    "half a schedule": ("gamma/b", None, "noise schedule is of no known type ('w' under gamma)"),
    "text for an array": ("score_model/conv_in/bias", "text", "is no array"),
}


@pytest.fixture
def model_of(tmp_path, capsys):
    """Runs ``nelbo import`` and returns its exit status and what it wrote on both streams."""

    def run(checkpoint, *options):
        status = 0
        try:
            main(["import", "official-vdm", str(checkpoint), str(tmp_path / "model"), *options])
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def assert_refused(tmp_path, model_of):
    """Asserts that a file is refused in one line that says what is wrong, and that nothing is written."""

    def check(content, says):
        checkpoint = tmp_path / "checkpoint.flax"
        checkpoint.write_bytes(content)
        status, out, err = model_of(checkpoint)
        assert (status, out) == (1, "")
        assert err.startswith(f"nelbo: {checkpoint} ")
        assert says in err
        assert len(err.splitlines()) == 1
        assert list(tmp_path.iterdir()) == [checkpoint]

    return check


@pytest.mark.parametrize("name", WRONG_PARAMS)
def test_wrong_parameters_are_refused_by_name(official_params, training_state, assert_refused, name):
    path, value, says = WRONG_PARAMS[name]
    params = official_params()
    *folders, last = path.split("/")
    node = params
    for folder in folders:
        node = node.setdefault(folder, {})
    node[last] = value
    if value is None:
        del node[last]
    assert_refused(training_state(params), says)


WRONG_FILES = {
    "empty": (b"", "ends too early"),
    "half": (GOLDEN.read_bytes()[: GOLDEN.stat().st_size // 2], "ends too early"),
    "all but the last byte": (GOLDEN.read_bytes()[:-1], "ends too early"),
    "twice": (GOLDEN.read_bytes() * 2, "bytes follow its end"),
    "random": (np.random.default_rng(0).bytes(10000), "damaged or no Flax checkpoint"),
    "a pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins\x94.", "no Flax checkpoint"),
    "a zip": (b"PK\x03\x04" + bytes(100), "no Flax checkpoint"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_damaged_and_foreign_files_are_refused(assert_refused, name):
    assert_refused(*WRONG_FILES[name])


def test_a_training_state_without_averages_is_refused(official_params, pack, assert_refused):
    assert_refused(pack({"params": official_params(), "step": np.int32(1)}), "has no ema_params")


def test_averages_of_nothing_are_refused(training_state, assert_refused):
    assert_refused(training_state({}), "lack score_model/conv_in/kernel")


def test_a_missing_file_is_named(tmp_path, model_of):
    absent = tmp_path / "absent.flax"
    message = f"nelbo: {absent} cannot be read: No such file or directory\n"
    assert model_of(absent) == (1, "", message)
    assert not list(tmp_path.iterdir())


def test_a_model_folder_is_written_and_kept(tmp_path, model_of):
    assert model_of(GOLDEN, "--size", "16") == (0, f"model: {tmp_path / 'model'}\n", "")
    assert nelbo.load(tmp_path / "model").image_shape == (3, 16, 16)
    assert GOLDEN.name in (tmp_path / "model" / "README.md").read_text()
    status, _, err = model_of(GOLDEN)
    assert status == 1
    assert "--force" in err
    assert nelbo.load(tmp_path / "model").image_shape == (3, 16, 16)
    assert model_of(GOLDEN, "--force")[0] == 0
    assert nelbo.load(tmp_path / "model").image_shape == (3, 32, 32)


def test_the_image_size_is_positive(tmp_path, model_of):
    assert model_of(GOLDEN, "--size", "0") == (1, "", "nelbo: the image size is at least 1, got 0\n")
    assert not list(tmp_path.iterdir())


# Names and shapes stand near these.
HEADERS = [match.start() for match in re.finditer(b"float32", GOLDEN.read_bytes())]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(near=st.sampled_from(HEADERS), offset=st.integers(-60, 12), value=st.integers(0, 255))
def test_a_changed_byte_gives_a_model_or_a_clear_refusal(tmp_path_factory, near, offset, value):
    content = bytearray(GOLDEN.read_bytes())
    content[near + offset] = value
    path = tmp_path_factory.getbasetemp() / "changed.flax"
    path.write_bytes(content)
    try:
        model, message = read_official_vdm(path), ""
    except NelboError as error:
        model, message = None, str(error)
    assert len(message.splitlines()) == (model is None)
    assert model is None or all(parameter.isfinite().all() for parameter in model.parameters())
