"""Frozen models: what they predict, their files, their price, and executors that fail the known answers."""

import json
import math
import struct

import pytest
import torch

from nelbo.cli.main import main
from nelbo.errors import NelboError
from nelbo.integer import execution, frozen_files
from nelbo.integer.arithmetic import EXECUTOR_VERSION
from nelbo.integer.executors import NativeExecutor, ReferenceExecutor
from nelbo.integer.freeze import choose_images, freeze, model_sha256
from nelbo.integer.frozen_model import FrozenModel
from nelbo.models.folder import save

KEY = "nelbo.frozen"


@pytest.fixture
def file(frozen_models, tmp_path):
    path = tmp_path / "small.frozen"
    frozen_models["multiscale"].save(path)
    return path


@pytest.mark.parametrize("gamma", [-13.3, -2.0, 5.0])
def test_predictions_recombine_to_the_latent(frozen, gamma, latents):
    z = latents(frozen, 2)
    prediction, level = frozen.predict(z, gamma), frozen.level(gamma)
    again = (level.alpha * prediction.x_hat + level.sigma * prediction.eps_hat) / 2**24
    assert (again - z * 4).abs().max() <= 4


def test_predictions_are_near_those_of_the_model(model, frozen, latents):
    z, gamma = latents(model, 2), -1.0
    with torch.no_grad():
        expected = model.denoise((z / 2**18).float(), torch.full((2,), gamma, dtype=torch.float64))
    assert (frozen.predict(z, gamma).eps_hat / 2**20 - expected).square().mean().sqrt() < 0.02 * expected.std()


def test_a_file_gives_the_model_back(file, frozen_models, latents):
    frozen, loaded = frozen_models["multiscale"], FrozenModel.load(file)
    assert loaded.fingerprint == frozen.fingerprint
    assert loaded.header == frozen.header
    z = latents(frozen, 2)
    assert torch.equal(loaded.result(z, 0.5), frozen.result(z, 0.5))


@pytest.mark.parametrize("gamma", [-13.3, -2.0, 5.0])
def test_a_second_decoder_gives_the_same_predictions(frozen, gamma, latents, script, tmp_path):
    """It follows docs/format.md and uses nothing of nelbo; together the networks have every operation."""
    frozen.save(tmp_path / "frozen")
    second = script("tests/codec/second_decoder.py").Frozen((tmp_path / "frozen").read_bytes())
    assert second.sha256.hex() == frozen.fingerprint
    for z in latents(frozen, 2, size=3.0):
        expected = frozen.predict(z[None], gamma).x_hat[0]
        assert torch.equal(torch.from_numpy(second.x_hat(z.long().numpy(), gamma)).double(), expected)


def test_fingerprints_tell_models_apart(frozen_models, models):
    assert len({frozen.fingerprint for frozen in frozen_models.values()}) == len(frozen_models)
    assert frozen_models["unet"].header.model_sha256 == model_sha256(models["unet"])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.999])
def test_a_changed_byte_is_refused(file, share):
    data = bytearray(file.read_bytes())
    data[int(share * (len(data) - 1))] ^= 4
    file.write_bytes(data)
    with pytest.raises(NelboError, match=str(file)):
        FrozenModel.load(file)


@pytest.mark.parametrize("length", [0, 5, 1000, -1])
def test_a_truncated_file_is_refused(file, length):
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(NelboError, match="missing or damaged"):
        FrozenModel.load(file)


def edited(file, change):
    """Rewrites the metadata of a safetensors file."""
    data = file.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + n])
    change(header["__metadata__"])
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + n :])


def test_another_version_is_refused_by_number(file):
    version = '"executor_version":'
    edited(file, lambda m: m.update({KEY: m[KEY].replace(f"{version}1", f"{version}7")}))
    with pytest.raises(NelboError, match="for version 7 of the integer executor, this is 1"):
        FrozenModel.load(file)


def test_other_files_are_refused(file, tmp_path):
    edited(file, lambda m: m.pop(KEY))
    with pytest.raises(NelboError, match="is no frozen model"):
        FrozenModel.load(file)
    with pytest.raises(NelboError, match="missing or damaged"):
        FrozenModel.load(tmp_path / "nowhere")


def test_missing_tensors_are_named(frozen_models):
    frozen = frozen_models["multiscale"]
    tensors = {name: tensor for name, tensor in frozen.tensors.items() if name != "1.weight"}
    with pytest.raises(NelboError, match=r"operation 1 \(conv\): the tensor 'weight' is missing"):
        FrozenModel(frozen.header, tensors)


def test_the_fastest_executor_that_gives_the_known_answers_runs(frozen_models, monkeypatch, latents):
    frozen = frozen_models["multiscale"]
    z = latents(frozen, 2)
    expected = frozen.result(z, 0.0)
    assert frozen.executor(2) == "native"
    run = NativeExecutor.run
    monkeypatch.setattr(NativeExecutor, "run", lambda self, z, c: run(self, z, c) + (len(z) == 2))
    fresh = FrozenModel(frozen.header, frozen.tensors)
    assert fresh.executor(1) == "native"
    assert fresh.executor(2) == "reference"
    assert torch.equal(fresh.result(z, 0.0), expected)


def test_without_an_exact_executor_nothing_runs(frozen_models, monkeypatch, latents):
    frozen = frozen_models["patches"]
    for kind in (NativeExecutor, ReferenceExecutor):
        run = kind.run
        monkeypatch.setattr(kind, "run", lambda self, z, c, run=run: run(self, z, c) + 1)
    with pytest.raises(NelboError, match="no executor of the frozen network gives its known answers"):
        FrozenModel(frozen.header, frozen.tensors).result(latents(frozen, 1), 0.0)


def test_another_setting_is_checked_again(frozen_models, monkeypatch):
    frozen = frozen_models["patches"]
    fresh = FrozenModel(frozen.header, frozen.tensors)
    checked = []
    monkeypatch.setattr(execution.Execution, "_agrees", lambda self, executor, answer, n: checked.append(n) or True)
    for n in (1, 1, 3):
        fresh.executor(n)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    fresh.executor(3)
    assert checked == [n for n in (1, 3, 3) for _ in frozen.header.known_gammas]


@pytest.mark.parametrize("name", ["fast", ""])
def test_unknown_executors_are_refused(frozen_models, name):
    frozen = frozen_models["patches"]
    with pytest.raises(NelboError, match=f"no executor '{name}' for cpu"):
        FrozenModel(frozen.header, frozen.tensors, executor=name)


def test_latents_must_fit(frozen, latents):
    z = latents(frozen, 1)
    with pytest.raises(NelboError, match="takes latents of shape"):
        frozen.result(z[:, :, 1:], 0.0)
    with pytest.raises(NelboError, match="integers in int64 or float64"):
        frozen.result(z.float(), 0.0)


def test_the_price_is_that_of_the_measured_error(frozen):
    cost, ends = frozen.header.cost, frozen.header.gamma_1 - frozen.header.gamma_0
    assert cost is not None
    assert cost.bpd == pytest.approx(0.5 * ends / math.log(2) * cost.rms_error**2)
    assert 0 < cost.bpd < 1
    assert abs(cost.difference_bpd) < 1
    assert cost.n_images == 2


def test_too_high_a_price_is_refused(models, images_of):
    with pytest.raises(NelboError, match=r"integers would cost .* bits per dimension, over 1e-12"):
        freeze(models["patches"], images_of(models["patches"]), max_cost_bpd=1e-12)


def test_one_image_is_too_few(models, images_of):
    with pytest.raises(NelboError, match="at least 2 images"):
        freeze(models["patches"], images_of(models["patches"])[:1])


def test_without_data_the_model_draws_images(models):
    drawn = choose_images(models["patches"], None, 2)
    assert drawn.shape == (2, 1, 8, 8)
    assert drawn.dtype == torch.uint8


def test_command_freezes_a_model(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("nelbo.integer.freeze.MAX_COST_BPD", 1.0)
    save(models["patches"], tmp_path / "model", "# A model")
    main(["freeze", str(tmp_path / "model"), str(tmp_path / "out.frozen"), "--n-images", "2"])
    out = capsys.readouterr().out
    frozen = FrozenModel.load(tmp_path / "out.frozen")
    assert frozen.header.cost is not None
    assert f"costs {frozen.header.cost.bpd:.5f} bits per dimension" in out
    assert f"fingerprint {frozen.fingerprint[:16]}" in out
    with pytest.raises(SystemExit):  # Archives may name the file that is there.
        main(["freeze", str(tmp_path / "model"), str(tmp_path / "out.frozen"), "--n-images", "2", "--seed", "1"])
    assert "out.frozen exists: choose another name, or overwrite it with -f" in capsys.readouterr().err
    assert FrozenModel.load(tmp_path / "out.frozen").fingerprint == frozen.fingerprint
    main(["freeze", str(tmp_path / "model"), str(tmp_path / "out.frozen"), "--n-images", "2", "--seed", "1", "-f"])
    assert FrozenModel.load(tmp_path / "out.frozen").fingerprint != frozen.fingerprint


def test_of_two_processes_that_freeze_one_model_the_first_one_counts(models, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = models["patches"]
    first, second = (freeze(model, choose_images(model, None, 2), seed=seed, max_cost_bpd=1.0) for seed in (0, 1))
    assert first.fingerprint != second.fingerprint

    def meanwhile(*_):
        kept = frozen_files.cache_folder() / f"{model_sha256(model)}-{EXECUTOR_VERSION}.safetensors"
        kept.parent.mkdir(parents=True)
        first.save(kept)
        return second

    monkeypatch.setattr("nelbo.integer.freeze.freeze", meanwhile)
    assert [frozen_files.frozen_of(model).fingerprint for _ in range(2)] == [first.fingerprint] * 2
    kept = frozen_files.kept_file(first)
    assert kept is not None
    assert FrozenModel.load(kept).fingerprint == first.fingerprint
    assert frozen_files.kept_file(second) is None


def test_command_refuses_too_few_images(capsys):
    with pytest.raises(SystemExit):
        main(["freeze", "cifar10-small", "out.frozen", "--n-images", "1"])
    assert "--n-images is at least 2" in capsys.readouterr().err


@pytest.mark.slow
def test_the_bundled_model_costs_at_most_a_thousandth(tmp_path):
    from nelbo.models.folder import load

    model = load("cifar10-small")
    cost = freeze(model, choose_images(model, None, 16)).header.cost
    assert cost is not None
    assert cost.bpd <= 0.001
