"""``nelbo info`` says what it understood, and warns of what was likely meant otherwise."""

import pytest
import torch

import nelbo
from nelbo.cli.main import main
from nelbo.runtime.bundled import bundled_tables
from nelbo.time_schedule.error_table import save_table

HEAD = "import nelbo, torch\ndef f(x, t): return x\ndef make():\n    return "
MODELS = {
    "a DDPM": (
        "nelbo.from_callable(f, torch.linspace(1e-4, 0.02, 1000), (3, 8, 8), pixel_range=(0.0, 1.0))",
        ["timesteps", "1000, betas 0.0001 to 0.02", "posterior", "0 .. 255 as 0 .. 1", "predicts", "eps, clipped at 1"],
        [],
    ),
    "a chain without noise": (
        "nelbo.from_callable(f, [0.01] * 50, (3, 8, 8))",
        ["prior"],
        ["does not reach noise: its last latent still holds signal, which costs up to"],
    ),
    "zero terminal SNR": (
        "nelbo.from_callable(f, [*torch.linspace(1e-3, 0.5, 49).tolist(), 1.0], (3, 8, 8))",
        ["timesteps", "50, betas"],
        ["zero terminal SNR: timestep 49 holds no signal and is dropped; 48 is the last level"],
    ),
    "an EDM network": (
        "nelbo.from_denoiser(f, (3, 8, 8))",
        ["continuous, sigma 0.002 to 80", "x, not clipped", "decoded without the network", "parameters  0"],
        [],
    ),
    "classes": (
        "nelbo.from_denoiser(lambda x, t, y: x, (3, 8, 8), n_classes=10)",
        ["classes", "10"],
        [],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_described_with_warnings(tmp_path, capsys, name):
    source, says, warnings = MODELS[name]
    (tmp_path / "model.py").write_text(HEAD + source)
    main(["info", f"{tmp_path}/model.py:make"])
    out = capsys.readouterr().out
    assert all(each in out for each in says), out
    found = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert len(found) == len(warnings)
    assert all(says in line for line, says in zip(found, warnings, strict=True))


def test_a_table_and_a_schedule_are_described(tmp_path, capsys):
    main(["info", str(bundled_tables()["mnist-tiny"])])
    out = capsys.readouterr().out
    assert "error table" in out
    assert "warning" not in out
    model = nelbo.load("mnist-tiny")
    table = nelbo.error_table(model, torch.zeros(2, 1, 28, 28, dtype=torch.uint8), n_gammas=4, precision="float32")
    save_table(table, tmp_path / "few.safetensors")
    nelbo.optimal_schedules(table, [2])[2].save(tmp_path / "2.safetensors")
    main(["info", str(tmp_path / "few.safetensors")])
    assert "warning: 2 images are few for the spectral kernel" in capsys.readouterr().out
    main(["info", str(tmp_path / "2.safetensors")])
    out = capsys.readouterr().out
    assert "spectral" in out
    assert "bits per dimension" in out


def test_a_file_of_weights_is_refused(capsys):
    from nelbo.runtime.bundled import bundled_models

    with pytest.raises(SystemExit):
        main(["info", str(bundled_models()["mnist-tiny"] / "model.safetensors")])
    assert "neither an error table nor a time schedule" in capsys.readouterr().err
