"""``nelbo.load("file.py:function")``: the model that the function makes, or one line that says what is wrong."""

import re
import sys

import pytest
import torch

import nelbo
from nelbo.cli.main import main
from nelbo.errors import NelboError

GOOD = """
import torch, nelbo
from beside import scale

net = torch.nn.Conv2d(1, 1, 1)
torch.nn.init.constant_(net.weight, scale)
torch.nn.init.zeros_(net.bias)


def make_model():
    return nelbo.from_callable(lambda x, t: net(x), torch.linspace(1e-3, 0.2, 50), (1, 4, 4))


def make_flow():
    return nelbo.from_denoiser(lambda x, t: net(x), (1, 4, 4), "flow", "t")


def fails():
    raise RuntimeError("no weights\\nhere")


def leaves():
    raise SystemExit


def needs(path):
    return path


def nothing():
    pass


def a_network():
    return net


def refused():
    return nelbo.from_callable(net, 1 - torch.linspace(1e-3, 0.2, 50), (1, 4, 4))
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "beside.py").write_text("scale = 0.5")
    (tmp_path / "my model.py").write_text(GOOD)
    return tmp_path / "my model.py"


@pytest.mark.parametrize("function", ["make_model", "make_flow"])
def test_the_commands_take_what_a_function_returns(tmp_path, file, capsys, function):
    images = torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8).numpy()
    (tmp_path / "images.npy").write_bytes(b"")
    import numpy as np

    np.save(tmp_path / "images.npy", images)
    name, data = f"{file}:{function}", str(tmp_path / "images.npy")
    main(["eval", name, "--data", data, "--json", str(tmp_path / "bound.json")])
    main(["schedule", name, "--data", data, "--out", str(tmp_path / "out"), "--budgets", "4", "--gammas", "20"])
    main(["eval", name, "--data", data, "--steps", str(tmp_path / "out" / "4.safetensors")])
    main(["sample", name, "--steps", "3", "--seeds", "0-1", "--out", str(tmp_path / "pictures")])
    main(["info", name])
    assert (tmp_path / "pictures" / "grid.png").exists()
    assert "parameters" in capsys.readouterr().out
    assert str(tmp_path) not in sys.path


WRONG = {
    "no file": ("absent.py:f", "no file .*absent.py: a model is named by FILE.py:FUNCTION"),
    "no function": ("my model.py:make", "has no function 'make'; it has make_model, make_flow, fails,"),
    "not named": ("my model.py", "does not say which function"),
    "not a function": ("my model.py:net_", "has no function 'net_'"),
    "fails": ("my model.py:fails", "fails in line 19: RuntimeError: no weights here"),
    "leaves": ("my model.py:leaves", "fails in line 23: SystemExit"),
    "needs": ("my model.py:needs", "fails: TypeError: needs.. missing 1 required"),
    "returns nothing": ("my model.py:nothing", "returns nothing, expected a model: wrap it with nelbo.from_callable"),
    "returns a network": ("my model.py:a_network", "returns a Conv2d, expected a model"),
    "a refusal": ("my model.py:refused", "make_model|decrease, as alphas"),
    "bad syntax": ("syntax.py:f", "fails in line 2: SyntaxError"),
    "an import": ("imports.py:f", "fails in line 1: ModuleNotFoundError: No module named 'nosuchmodule'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(tmp_path, file, name):
    (tmp_path / "syntax.py").write_text("x = 1\ndef f(:\n")
    (tmp_path / "imports.py").write_text("import nosuchmodule\n")
    what, says = WRONG[name]
    with pytest.raises(NelboError) as caught:
        nelbo.load(f"{tmp_path}/{what}")
    assert re.search(says, str(caught.value)), str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".safetensors"])
def test_bare_weights_are_refused_with_the_ways_to_load_them(tmp_path, suffix):
    torch.save({}, tmp_path / f"weights{suffix}")
    with pytest.raises(NelboError, match=r"nelbo import.*FILE\.py:FUNCTION.*from_callable"):
        nelbo.load(tmp_path / f"weights{suffix}")
