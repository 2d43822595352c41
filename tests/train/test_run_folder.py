"""A run folder is claimed once; a run can be made longer; a configuration can be read back from what was printed."""

import json

import numpy as np
import pytest
from PIL import Image

from nelbo.cli.main import main
from nelbo.errors import NelboError
from nelbo.train.checkpoint import Checkpoints
from nelbo.train.config_file import as_json, read_config
from nelbo.train.cost import run_cost
from nelbo.train.inputs import scaled_hold_out
from nelbo.train.run_folder import claim_folder, extension, recorded
from nelbo.train.speed import images_per_second


def test_a_run_may_become_longer_and_not_shorter(tmp_path, tiny):
    identity = tiny("n_images=64").model_dump(mode="json")
    assert claim_folder(tmp_path, identity) is None
    assert claim_folder(tmp_path, {**identity, "n_images": 128}, is_first=False) == 64
    assert claim_folder(tmp_path, {**identity, "n_images": 128}) == 64
    assert claim_folder(tmp_path, {**identity, "n_images": 128}) is None
    assert recorded(tmp_path, "n_images") == 128
    with pytest.raises(NelboError, match=r"n_images: 128 -> 64.*: --finetune .*model and another --out"):
        claim_folder(tmp_path, identity)
    with pytest.raises(NelboError, match=r"another run \(batch_size: 16 -> 8\)"):
        claim_folder(tmp_path, {**identity, "batch_size": 8, "n_images": 256})
    assert recorded(tmp_path, "n_images") == 128


def test_it_is_said_what_becomes_of_the_learning_rate(tiny):
    config = tiny("n_images=320", "decay=linear", "learning_rate=1e-3")
    assert extension(config, 160, 10) == (
        "made longer at step 10, from 160 to 320 images: "
        "the learning rate falls to zero over the new length, so it goes from 0 to 0.0005"
    )
    assert extension(tiny("n_images=320", "decay=constant"), 160, 10).endswith("the learning rate stays 0.001")


def test_a_longer_run_with_a_constant_rate_is_the_run_that_was_that_long(tmp_path, command):
    constant = "decay=constant"
    main(command(tmp_path / "long", constant, "n_images=96"))
    for n_images in (48, 96):
        main(command(tmp_path / "longer", constant, f"n_images={n_images}"))
    long, longer = (Checkpoints(tmp_path / name / "checkpoints").load_latest() for name in ("long", "longer"))
    assert long is not None
    assert longer is not None
    assert long["step"] == longer["step"] == 6
    assert all(bool((tensor == longer["average"][name]).all()) for name, tensor in long["average"].items())
    assert "made longer at step 3, from 48 to 96 images" in (tmp_path / "longer" / "log.txt").read_text()


def test_what_was_printed_is_read_back(tiny, tmp_path):
    yaml = pytest.importorskip("yaml")
    config = tiny("learning_rate=1e-5", "flip=false", 'model.augment=["flip"]')
    text = as_json(config, run_cost(config))
    (tmp_path / "a.json").write_text(text)
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(json.loads(text)))
    (tmp_path / "c.yml").write_text("n_images: 10\nlearning_rate: 1e-5\nmodel: {image_shape: [3, 8, 8]}\n")
    claim_folder(tmp_path / "run", {**config.model_dump(mode="json"), "data": {"n_images": 3}})
    for name in ("a.json", "b.yaml", "run/config.json"):
        assert read_config(tmp_path / name) == config
    assert read_config(tmp_path / "c.yml").learning_rate == 1e-5


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("missing.json", None, "cannot be read"),
        ("a.json", "{", "is no JSON"),
        ("a.yaml", "a: [", "is no YAML"),
        ("a.json", "[1]", "holds no configuration"),
        ("a.json", '{"n_images": 1, "colour": 3}', "colour"),
        ("a.json", '{"n_images": 0}', "n_images"),
    ],
)
def test_a_bad_configuration_file_is_one_line(name, text, problem, tmp_path):
    pytest.importorskip("yaml")
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(NelboError, match=problem) as caught:
        read_config(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_dry_run_prints_json_that_starts_a_run(tmp_path, command, data_file, capsys):
    main([*command(tmp_path / "run", "n_images=16"), "--dry-run", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["cost"]["images_per_second"] > 0
    assert printed["cost"]["seconds"] == pytest.approx(16 / printed["cost"]["images_per_second"])
    (tmp_path / "config.json").write_text(json.dumps(printed))
    main(["train", "--config", str(tmp_path / "config.json"), "--data", str(data_file), "--out", str(tmp_path / "run")])
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert recorded(tmp_path / "run", "n_held_out") == 6  # A tenth of 64: the command line did not say how many.


def test_steps_too_long_to_try_are_not_timed(tiny, monkeypatch):
    monkeypatch.setattr("nelbo.train.speed.LARGEST_FLOP", 10.0)
    assert images_per_second(tiny(), "cpu") is None


@pytest.mark.parametrize(
    ("wanted", "n", "held_out"), [(1000, 50_000, 1000), (1000, 256, 25), (1000, 9, 0), (0, 100, 0)]
)
def test_at_most_a_tenth_of_a_small_set_is_held_out(wanted, n, held_out):
    assert scaled_hold_out(wanted, n) == held_out


def test_a_begun_run_keeps_the_number_that_it_holds_out(tmp_path, command):
    arguments = command(tmp_path / "run", "n_images=16")
    main(arguments)
    main([word for pair in _pairs(arguments) if not pair[-1].startswith("n_held_out") for word in pair])
    assert recorded(tmp_path / "run", "n_held_out") == 16


def _pairs(arguments):
    return [arguments[:1], *(arguments[i : i + 2] for i in range(1, len(arguments), 2))]


def test_a_folder_of_photographs_trains_without_another_tool(tmp_path, command, capsys):
    random, folder = np.random.default_rng(0), tmp_path / "photos"
    folder.mkdir()
    for i in range(20):
        size = (*random.integers(12, 40, 2), 3)
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{i}.png")
    arguments = command(tmp_path / "run", "n_images=32", "n_held_out=4")
    arguments[arguments.index("--data") + 1] = str(folder)
    main([*arguments, "--resize", "10", "--crop", "8"])
    identity = json.loads((tmp_path / "run" / "config.json").read_text())
    assert identity["data"] == {"n_images": 16, "shape": [3, 8, 8], "preparation": "--resize 10 --crop 8"}
    main(["eval", str(tmp_path / "run" / "model"), "--data", str(folder), "--resize", "10", "--crop", "8"])
    assert " 20 " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*arguments, "--resize", "8"])
    assert 'data.preparation: "--resize 10 --crop 8" -> "--resize 8"' in capsys.readouterr().err
    main(["data", "folder", str(folder), "--size", "8", "--out", str(tmp_path / "x.npz")])
    assert capsys.readouterr().out == f"{tmp_path / 'x.npz'}: 20 images, RGB 8x8\n"
    with pytest.raises(SystemExit):
        main(["data", "folder", str(folder), "--size", "8", "--out", str(tmp_path / "x.npz")])
    assert "exists: choose another name, or overwrite it with -f" in capsys.readouterr().err
