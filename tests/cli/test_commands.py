"""Every verb does what the API does; every mistake is one line on standard error, status 1, and leaves no trace."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from nelbo.cli.main import main
from nelbo.data import open_images
from nelbo.evaluation import evaluate, table
from nelbo.models.folder import load, save
from nelbo.models.vdm import VDM
from nelbo.runtime.bundled import bundled_images, bundled_models
from nelbo.sampling import sample
from nelbo.train.config import override
from nelbo.train.presets import preset

TINY = (
    "model.image_shape=[3,8,8]",
    "model.net.channels=[8,16]",
    "model.net.n_blocks_down=[1,1]",
    "model.net.n_blocks_up=[1,1]",
    "model.net.heads=[0,0]",
    "model.net.n_cond=16",
    "n_images=16",
    "batch_size=8",
    "n_held_out=4",
)
TRAIN = ("train", "--preset", "cifar10-small", *(word for setting in TINY for word in ("--set", setting)))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """Returns a folder with a model and images in several forms, good and bad."""
    root = tmp_path_factory.mktemp("pristine")
    torch.manual_seed(0)
    model = VDM(override(preset("cifar10-small"), TINY).model)
    with torch.no_grad():
        for p in model.net.parameters():
            p.add_(0.02 * torch.randn_like(p))
    save(model, root / "model", "A model.")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    np.savez(root / "images.npz", images=pixels)
    np.savez(root / "large.npz", images=np.zeros((4, 16, 16, 3), dtype=np.uint8))
    np.savez(root / "grey.npz", images=np.zeros((4, 8, 8), dtype=np.uint8))
    (root / "empty").mkdir()
    for name, pictures in {
        "folder": list(pixels),
        "mixed": [pixels[0], pixels[1], np.zeros((4, 4, 3), dtype=np.uint8)],
        "rgba": [np.zeros((8, 8, 4), dtype=np.uint8)] * 2,
        "corrupt": list(pixels[:3]),
    }.items():
        for i, picture in enumerate(pictures):
            (root / name).mkdir(exist_ok=True)
            Image.fromarray(picture).save(root / name / f"{i:03}.png")
    damaged = root / "corrupt" / "001.png"
    damaged.write_bytes(damaged.read_bytes()[:80])  # The header is whole, the pixels are not.
    (root / "images.txt").write_text("not images")
    (root / "cut.npz").write_bytes((root / "images.npz").read_bytes()[:1000])
    archive = shutil.make_archive(str(root / "images"), "zip", root / "folder")
    (root / "cut.zip").write_bytes((root / "images.zip").read_bytes()[:1000])
    assert archive
    (root / "file").write_text("in the way")
    for name, damage in DAMAGED_MODELS.items():
        shutil.copytree(root / "model", root / name)
        damage(root / name)
    return root


@pytest.fixture
def place(pristine, tmp_path, monkeypatch):
    """Makes a copy of that folder the working directory."""
    shutil.copytree(pristine, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_weights(path, change):
    save_file({name: change(name, tensor) for name, tensor in load_file(path).items()}, path)


def change_config(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


DAMAGED_MODELS = {
    "weights cut": lambda folder: cut(folder / "model.safetensors"),
    "weights empty": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "weights missing": lambda folder: (folder / "model.safetensors").unlink(),
    "weights nan": lambda folder: change_weights(
        folder / "model.safetensors", lambda name, x: x * torch.nan if name.startswith("net.") else x
    ),
    "weights foreign": lambda folder: change_weights(folder / "model.safetensors", lambda name, x: x.flatten()),
    "config missing": lambda folder: (folder / "config.json").unlink(),
    "config garbage": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe garbage"),
    "config no json": lambda folder: (folder / "config.json").write_text("{"),
    "config a list": lambda folder: (folder / "config.json").write_text("[]"),
    "config unknown field": lambda folder: change_config(folder / "config.json", colour="blue"),
    "config other shape": lambda folder: change_config(folder / "config.json", net={"type": "unet", "n_blocks": 1}),
}


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(line):
    main(line.split())


def failure(arguments, capsys):
    """Returns the line that a failing command says."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in arguments])
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("nelbo: ")
    assert said.count("\n") == 1
    assert said.endswith("\n")
    return said


# What works


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
    assert json.loads((place / "results" / "bound.json").read_text()) == asdict(result)
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
    assert '"n_cond": 16' in out
    assert "GFLOP" in out
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


# What does not

BAD_DATA = {
    "nowhere": "nowhere does not exist",
    "empty": "empty holds no image files",
    "large.npz": "16",
    "grey.npz": "grey",
    "mixed": "002.png",
    "rgba": "000.png",
    "corrupt": "001.png",
    "images.txt": "images.txt is no data set",
    "cut.npz": "cut.npz",
    "cut.zip": "cut.zip",
}


@pytest.mark.parametrize("data", BAD_DATA)
@pytest.mark.parametrize("verb", ["eval", "train"])
def test_images_that_cannot_be_used(verb, data, place, capsys):
    before = files(place)
    settings = ("--set", "n_held_out=0")
    words = ("eval", "model", "--json", "out.json") if verb == "eval" else (*TRAIN, *settings, "--out", "run")
    line = failure([*words, "--data", data], capsys)
    assert BAD_DATA[data] in line or (data == "grey.npz" and "(1, 8, 8)" in line)
    if data == "corrupt" and verb == "train":  # Pixels are decoded when their turn comes.
        shutil.rmtree(place / "run")
    assert files(place) == before


@pytest.mark.parametrize("model", ["nosuch", "images.npz", "empty", *DAMAGED_MODELS])
@pytest.mark.parametrize("verb", ["eval", "sample", "info"])
def test_models_that_cannot_be_used(verb, model, place, capsys):
    if verb == "info" and model == "weights nan":
        pytest.skip("what a model is made of does not depend on its weights")
    before = files(place)
    rest = {
        "eval": ("--data", "images.npz", "--json", "out.json"),
        "sample": ("--out", "out", "--steps", "2"),
        "info": (),
    }[verb]
    line = failure([verb, model, *rest], capsys)
    assert "not finite" in line if model == "weights nan" else model.split()[0] in line
    assert files(place) == before
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("eval model --data images.npz --steps 0", "--steps"),
        ("eval model --data images.npz --steps -3", "--steps"),
        ("eval model --data images.npz --steps abc", "--steps"),
        ("eval model --data images.npz --steps 2.5", "--steps"),
        ("eval model --data images.npz --passes 0", "passes must be at least 1, got 0"),
        ("eval model --data images.npz --batch-size 0", "--batch-size"),
        ("eval model --data images.npz --seed -1", "seed is a number from 0 on"),
        ("sample model --out out --steps 0", "--steps"),
        ("sample model --out out --steps -3", "--steps"),
        ("sample model --out out --steps abc", "--steps"),
        ("sample model --out out --steps inf", "--steps"),
        ("sample model --out out --seeds 3-1", "--seeds"),
        ("sample model --out out --seeds -1", "--seeds"),
        ("sample model --out out --seeds 1,,2", "--seeds"),
        ("sample model --out out --seeds 1-2-3", "--seeds"),
        ("sample model --out out --seeds ,", "--seeds"),
        ("sample model --out out --batch-size 0", "--batch-size"),
        ("sample model --out out --batch-size -1", "--batch-size"),
        ("train --preset nosuch --data images.npz --out out", "no preset 'nosuch'"),
        ("train --preset mnist-tiny", "training needs --data IMAGES and --out RUN"),
        ("train --preset mnist-tiny --data images.npz", "training needs --data IMAGES and --out RUN"),
        ("train --preset mnist-tiny --out out", "training needs --data IMAGES and --out RUN"),
        ("train --preset imagenet64 --data images.npz --out out", "RGB 8x8"),
        ("train --preset mnist-tiny --set nosuch=3 --dry-run", "nosuch"),
        ("train --preset mnist-tiny --set model.net.channels.0.1=3 --dry-run", "model.net.channels.0.1"),
        ("train --preset mnist-tiny --set batch_size=0 --dry-run", "batch_size"),
        ("train --preset mnist-tiny --set model.net.heads=[5,0,0] --dry-run", "must divide"),
    ],
)
def test_values_that_make_no_sense(words, problem, place, capsys):
    before = files(place)
    assert problem in failure(words.split(), capsys)
    assert files(place) == before
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--data images.npz --out run --test nowhere", "nowhere does not exist"),
        ("--data images.npz --out run --test large.npz", "large.npz: the images are RGB 16x16"),
        ("--data images.npz --out run --set n_held_out=20", "has 20 images and the configuration holds out 20"),
        ("--data images.npz --out run --log-every 0", "log"),
        ("--data images.npz --out run --checkpoint-every 0", "checkpoint"),
        ("--data images.npz --out run --evaluate-every -1", "evaluate"),
        ("--data images.npz --out run --set model.net.heads=[3,0]", "must divide"),
        ("--data images.npz --out run --set model.net.patch=3", "multiples of 6"),
        ("--data images.npz --out file", "file exists and is no training run"),
        ("--data images.npz --out folder", "folder exists and is no training run"),
        ("--data images.npz --out file/run", "cannot write file/run/config.json"),
    ],
)
def test_runs_that_cannot_start(words, problem, place, capsys):
    before = files(place)
    assert problem in failure([*TRAIN, *words.split()], capsys)
    assert files(place) == before
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        "eval model --data images.npz --json file/bound.json",
        "eval model --data images.npz --json folder",
        "sample model --steps 1 --seeds 0 --out file",
        "sample model --steps 1 --seeds 0 --out file/deeper",
    ],
)
def test_output_that_is_in_the_way(words, place, capsys):
    before = files(place)
    assert words.split()[-1] in failure(words.split(), capsys)
    assert files(place) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    "words",
    ["eval model --data images.npz", "sample model --out out", " ".join([*TRAIN, "--data images.npz --out out"])],
)
def test_a_device_that_is_not_there(words, place, capsys):
    assert "--device cuda: this PyTorch sees no CUDA device" in failure([*words.split(), "--device", "cuda"], capsys)
    assert not (place / "out").exists()


def test_interrupting_exits_with_130(place, monkeypatch, capsys):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("nelbo.data.open.open_images", interrupt)
    with pytest.raises(SystemExit) as caught:
        run("eval model --data images.npz")
    assert caught.value.code == 130
    assert capsys.readouterr().err == "nelbo: interrupted\n"
