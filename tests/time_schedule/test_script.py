"""runs/schedules.py takes a finished error table as it is."""

import sys

import numpy as np
import pytest

import nelbo
from nelbo.errors import NelboError
from nelbo.runtime.bundled import bundled_tables


@pytest.fixture
def table_of(script, monkeypatch, tmp_path):
    """Returns the script's table of a model, by its command line."""
    module = script("runs/schedules.py")

    def make(name, *arguments):
        words = (name, *arguments, "--test", "none", "--out", tmp_path)
        monkeypatch.setattr(sys, "argv", ["schedules.py", *map(str, words)])
        return module.table_of(nelbo.load(name), module.parse())

    return make


@pytest.mark.parametrize("fastest", ["float32", "bfloat16"])
def test_a_bundled_table_serves_whatever_precision_is_fastest_here(table_of, fastest, monkeypatch):
    monkeypatch.setattr("nelbo.runtime.device.fastest_precision", lambda device: fastest)
    table = table_of("mnist-tiny", "--table", bundled_tables()["mnist-tiny"])
    assert table.subject.precision == "bfloat16"
    assert set(table.n_images.tolist()) == {128}


def test_a_table_of_another_model_is_refused(table_of):
    with pytest.raises(NelboError, match="is the error table of another model than 'cifar10-small'"):
        table_of("cifar10-small", "--table", bundled_tables()["mnist-tiny"])


def test_training_images_and_a_table_are_one_or_the_other(table_of, tmp_path, capsys):
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 28, 28), np.uint8))
    table = table_of("mnist-tiny", "--train", tmp_path / "images.npz", "--gammas", 1, "--images", 2)
    assert table.n_images.tolist() == [2]
    for arguments in ((), ("--train", "a.npz", "--table", "b.safetensors")):
        with pytest.raises(SystemExit):
            table_of("mnist-tiny", *arguments)
    assert "one of the arguments --train --table is required" in capsys.readouterr().err
