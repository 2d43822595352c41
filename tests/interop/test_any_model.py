"""``nelbo.load`` finds bundled models, folders of every kind and models on the hub, and says so where there is none."""

import shutil
import sys
from pathlib import Path

import pytest

import nelbo
from nelbo.errors import NelboError
from nelbo.models import folder as model_folder
from nelbo.models.vdm import VDM
from nelbo.runtime.bundled import bundled_models

FOLDER = bundled_models()["cifar10-small"]


def test_bundled_models_and_folders_of_ours_are_read():
    assert isinstance(nelbo.load("cifar10-small"), VDM)
    assert isinstance(nelbo.load(FOLDER), VDM)


@pytest.mark.parametrize("load", [nelbo.load, model_folder.load])
def test_a_path_is_the_users_folder_whatever_bundled_model_has_its_name(tmp_path, monkeypatch, load):
    shutil.copytree(FOLDER, tmp_path / "mnist-tiny")
    monkeypatch.chdir(tmp_path)
    for name in ("./mnist-tiny", Path("mnist-tiny"), tmp_path / "mnist-tiny"):
        assert load(name).image_shape == (3, 32, 32)
    assert load("mnist-tiny").image_shape == (1, 28, 28)


@pytest.mark.parametrize("name", ["nosuch", "/nosuch/folder", "a/b/c", "nosuch folder"])
def test_a_name_of_nothing_is_refused_without_asking_the_hub(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # Asking would say that it is missing.
    with pytest.raises(NelboError, match="neither a model folder, nor a bundled model"):
        nelbo.load(name)


def test_a_slip_in_a_path_is_no_hub_id(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NelboError, match="neither a model folder"):
        nelbo.load("out/nosuch")


def test_a_hub_id_is_downloaded_by_the_hubs_client(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, allow_patterns):
        asked.append((name, "*.safetensors" in allow_patterns))
        return str(shutil.copytree(FOLDER, tmp_path / "snapshot"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert isinstance(nelbo.load("someone/a-model.v2"), VDM)
    assert asked == [("someone/a-model.v2", True)]


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    import huggingface_hub

    def download(name, allow_patterns):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(NelboError, match=r"the hub does not give it \(no route to host\)") as caught:
        nelbo.load("someone/model")
    assert len(str(caught.value).splitlines()) == 1


def test_without_the_hubs_client_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(NelboError, match=r"pip install 'nelbo\[hub\]'"):
        nelbo.load("someone/model")


def test_a_damaged_folder_of_ours_is_named(tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "model")
    (folder / "config.json").write_text("{")
    with pytest.raises(NelboError, match=r"config\.json"):
        nelbo.load(folder)
