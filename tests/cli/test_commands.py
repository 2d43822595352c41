"""Every verb does what the API does."""

import json
import re
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from nelbo.cli.main import main
from nelbo.data import open_images
from nelbo.evaluation import evaluate, table
from nelbo.models.folder import load
from nelbo.models.provenance import provenance
from nelbo.runtime.bundled import bundled_images, bundled_models
from nelbo.sampling import sample

from fixtures.command_line import TRAIN, files


def run(line):
    main(line.split())


@pytest.mark.parametrize("steps", ["inf", "7"])
def test_eval_prints_and_writes_what_the_api_returns(steps, place, capsys):
    words = "eval model --data images.npz --passes 2 --seed 5 --batch-size 7 --precision float32"
    main([*words.split(), "--steps", steps, "--json", "results/bound.json"])
    model, images = load("model"), open_images("images.npz")
    n_steps = None if steps == "inf" else int(steps)
    result = evaluate(model, images, n_steps, seed=5, n_passes=2, batch_size=7, precision="float32")
    said = capsys.readouterr()
    assert said.out.startswith(table([result]) + "\n")
    assert said.out.endswith("float32, seed 5\n")
    assert said.err == ""
    written = json.loads((place / "results" / "bound.json").read_text())
    assert written.pop("provenance") == json.loads(json.dumps(provenance(model, "model", images, 5)))
    assert written == asdict(result)
    assert [path.name for path in (place / "results").iterdir()] == ["bound.json"]


@pytest.mark.parametrize("data", ["folder", "images.zip"])
def test_eval_reads_folders_and_archives_alike(data, place, capsys):
    tables = []
    for path in (data, "images.npz"):
        main(["eval", "model", "--data", path, "--precision", "float32"])
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]


def test_sample_writes_a_grid_and_a_picture_for_each_seed(place, capsys):
    run("sample model --out a --steps 5 --seeds 0-2,7 --batch-size 3 --precision float32")
    assert capsys.readouterr().out == "4 images: a/grid.png\n"
    names = ["000000.png", "000001.png", "000002.png", "000007.png"]
    assert sorted(path.name for path in (place / "a").iterdir()) == [*names, "grid.png"]
    run("sample model --out b --steps 5 --seeds 7 --precision float32")
    pixels = [np.asarray(Image.open(place / out / "000007.png")).astype(int) for out in ("a", "b")]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1  # to rounding, whatever the batch
    run("sample model --out c --steps 5 --seeds 0-2,7 --batch-size 3 --precision float32")
    assert files(place / "a") == files(place / "c")
    images = sample(load("model"), 5, [0, 1, 2, 7], batch_size=3, precision="float32")
    read = np.stack([np.asarray(Image.open(place / "a" / name)) for name in names])
    np.testing.assert_array_equal(read, images.permute(0, 2, 3, 1).numpy())
    assert len(np.unique(read, axis=0)) == 4


def test_verbs_work_in_a_fresh_interpreter(place):
    """Verbs import what they need when they run; in this process all of it is there already."""
    for verb in ("eval model --data images.npz", "sample model --out out --steps 2 --seeds 0", "info model"):
        done = subprocess.run([sys.executable, "-m", "nelbo", *verb.split()], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), verb


def test_train_then_eval_its_model(place, capsys):
    main([*TRAIN, "--data", "folder", "--out", "runs/a", "--test", "images.npz"])
    assert capsys.readouterr().out == "model: runs/a/model\n"
    lines = [json.loads(line) for line in (place / "runs" / "a" / "metrics.jsonl").read_text().splitlines()]
    measured = next(line["test_bpd"] for line in lines if "test_bpd" in line)
    run("eval runs/a/model --data images.npz")
    assert f"{measured:.4f}" in capsys.readouterr().out
    card = (place / "runs" / "a" / "model" / "README.md").read_text()
    assert f"{measured:.4f}" in card
    assert "20 images of images.npz" in card
    main([*TRAIN, "--data", "folder", "--out", "runs/a", "--test", "images.npz"])
    assert capsys.readouterr().out == "model: runs/a/model\n"


def test_dry_run_touches_nothing(place, capsys):
    before = files(place)
    main([*TRAIN, "--dry-run", "--data", "nowhere", "--out", "run"])
    out = capsys.readouterr().out
    assert re.search(r"^model\.net\.n_cond +16$", out, re.MULTILINE)
    assert "GFLOP" in out
    assert "images a second" in out
    assert files(place) == before


def test_info_describes_a_model_and_lists_the_bundled_ones(place, capsys):
    main(["info", "model"])
    out = capsys.readouterr().out
    assert "images      (3, 8, 8)" in out
    assert f"parameters  {sum(p.numel() for p in load('model').parameters())}" in out
    assert "gamma       -13.3000 to 5.0000" in out
    main(["info"])
    out = capsys.readouterr().out
    assert all(name in out for name in [*bundled_models(), *bundled_images()])
