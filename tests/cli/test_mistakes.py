"""Every mistake is one line on standard error, status 1, and leaves no trace."""

import shutil

import pytest
import torch

from nelbo.cli.main import main

from fixtures.command_line import DAMAGED_MODELS, TRAIN, failure, files

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
    def interrupt(path, fit=None):
        raise KeyboardInterrupt

    monkeypatch.setattr("nelbo.data.open.open_images", interrupt)
    with pytest.raises(SystemExit) as caught:
        main(["eval", "model", "--data", "images.npz"])
    assert caught.value.code == 130
    assert capsys.readouterr().err == "nelbo: interrupted\n"
