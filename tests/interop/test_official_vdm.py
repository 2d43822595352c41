"""The official VDM three ways: as recorded, as rewritten here on its own parameters, and as we import it."""

from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import nelbo
from nelbo.diffusion.bound import Draws, bound
from nelbo.errors import NelboError
from nelbo.interop.official_vdm import import_official_vdm, read_official_vdm
from nelbo.models.config import UNetConfig

GOLDEN = Path(__file__).parents[1] / "golden"
N_STEPS = {"official_vdm_scalar": None, "official_vdm_t100": 100}


@pytest.fixture
def write(tmp_path, training_state):
    """Writes averaged parameters as a checkpoint and returns its path."""

    def written(ema_params):
        path = tmp_path / "checkpoint.flax"
        path.write_bytes(training_state(ema_params))
        return path

    return written


def unpack(path):
    def array(_, data):
        shape, name, content = msgpack.unpackb(data)
        return np.frombuffer(content, name).reshape(shape)

    return msgpack.unpackb(path.read_bytes(), ext_hook=array)


# The official network, rewritten on its own parameters


def official_gamma(params, t):
    """Returns the noise schedule in float64."""
    p = {layer: np.float64(value) for layer, value in params.get("gamma", {}).items() if layer in "bw"}
    if "gamma" not in params:
        return -13.3 + 18.3 * t
    if p:
        return p["b"] + abs(p["w"]) * t
    l1, l2, l3 = (params["gamma"][name] for name in ("l1", "l2", "l3"))
    h = t[:, None] * abs(np.float64(l1["kernel"])) + l1["bias"]
    hidden = 2 * (t[:, None] - 0.5) @ abs(np.float64(l2["kernel"])) + l2["bias"]
    hidden = 2 * (1 / (1 + np.exp(-hidden)) - 0.5)
    return (h + hidden @ abs(np.float64(l3["kernel"])) / 1024)[:, 0]


def official_eps_hat(params, z, g):
    """Returns the network's output for conditioning 0 in float64; z is (batch, height, width, channel)."""
    p = {name: _double(layer) for name, layer in params["score_model"].items()}
    n_channels = p["conv_in"]["kernel"].shape[-1]

    def dense(p, x):
        return x @ p["kernel"] + p.get("bias", 0)

    def conv(p, x):
        kernel = p["kernel"].permute(3, 2, 0, 1)
        return F.conv2d(x.movedim(-1, 1), kernel, p["bias"], padding=1).movedim(1, -1)

    def norm(p, x):
        return F.group_norm(x.movedim(-1, 1), 32, p["scale"], p["bias"], eps=1e-6).movedim(1, -1)

    def block(p, x):
        h = conv(p["conv1"], F.silu(norm(p["GroupNorm_0"], x)))
        h = h + dense(p["cond_proj"], cond)[:, None, None]
        h = conv(p["conv2"], F.silu(norm(p["GroupNorm_1"], h)))
        return h + (dense(p["nin_shortcut"], x) if "nin_shortcut" in p else x)

    def attend(p, x):
        if p is None:
            return x
        q, k, v = (dense(p[name], norm(p["GroupNorm_0"], x)).flatten(1, 2) for name in "qkv")
        h = torch.softmax(q @ k.mT / n_channels**0.5, dim=-1) @ v
        return x + dense(p["proj_out"], h).reshape(x.shape)

    # Angles are large, so that their rounding to float32 shows in the output.
    z, t = torch.tensor(z), (torch.tensor(g) + 13.3) / 18.3
    rates = torch.exp(-np.log(10000) / (n_channels // 2 - 1) * torch.arange(n_channels // 2))
    angles = (1000 * t[:, None] * rates).double()
    cond = torch.cat([angles.sin(), angles.cos(), torch.zeros(len(t), 1)], dim=1)
    cond = F.silu(dense(p["dense1"], F.silu(dense(p["dense0"], cond))))

    frequencies = torch.tensor([2**6 * 2 * np.pi, 2**7 * 2 * np.pi] * z.shape[-1])
    waves = (z.repeat_interleave(2, -1) * frequencies).double()
    with_fourier = p["conv_in"]["kernel"].shape[2] > z.shape[-1]
    inputs = torch.cat([z, waves.sin(), waves.cos()], dim=-1) if with_fourier else z.double()
    skips = [conv(p["conv_in"], inputs)]
    n_blocks = sum(name.startswith("down.block") for name in p)
    for i in range(n_blocks):
        skips.append(attend(p.get(f"down.attn_{i}"), block(p[f"down.block_{i}"], skips[-1])))
    h = attend(p["mid.attn_1"], block(p["mid.block_1"], skips[-1]))
    h = block(p["mid.block_2"], h)
    for i in range(n_blocks + 1):
        h = block(p[f"up.block_{i}"], torch.cat([h, skips.pop()], dim=-1))
        h = attend(p.get(f"up.attn_{i}"), h)
    return conv(p["conv_out"], F.silu(norm(p["GroupNorm_0"], h))) + z


def _double(tree) -> Any:
    if isinstance(tree, dict):
        return {name: _double(child) for name, child in tree.items()}
    return torch.tensor(tree, dtype=torch.float64)


# What the official code computed


@pytest.fixture(params=N_STEPS)
def golden(request):
    with np.load(GOLDEN / f"{request.param}.npz") as file:
        record = dict(file)
    model = read_official_vdm(GOLDEN / f"{request.param}.flax", record["images"].shape[1])
    return model, record, N_STEPS[request.param], GOLDEN / f"{request.param}.flax"


def channels_first(array):
    return torch.tensor(array).movedim(-1, 1).contiguous()


@pytest.mark.parametrize(
    ("name", "n_blocks", "fourier"), [("official_vdm_scalar", 2, (7, 8)), ("official_vdm_t100", 3, ())]
)
def test_the_architecture_is_read_off_the_parameters(name, n_blocks, fourier):
    config = read_official_vdm(GOLDEN / f"{name}.flax").config
    assert config.net == UNetConfig(n_channels=32, n_blocks=n_blocks, dropout=0.1, fourier=fourier)
    assert config.image_shape == (3, 32, 32)
    assert config.noise_schedule.type == "linear"
    assert config.noise_schedule.model_dump()["learned"]


@torch.no_grad()
def test_golden_eps_hat(golden):
    model, record, _, _ = golden
    eps_hat = model.denoise(channels_first(record["z"]), torch.tensor(record["g"]))
    torch.testing.assert_close(eps_hat, channels_first(record["eps_hat"]), rtol=1e-4, atol=1e-5)


def test_golden_gammas(golden):
    model, record, _, _ = golden
    gammas = model.noise_schedule(torch.tensor(record["t_grid"]).double()).detach()
    torch.testing.assert_close(gammas.float(), torch.tensor(record["gamma_grid"]), rtol=1e-5, atol=0)


@torch.no_grad()
def test_golden_bound(golden):
    model, record, n_steps, _ = golden
    n = len(record["images"])
    u = torch.tensor(np.mod(np.float64(record["u0"]) + np.arange(n) / n, 1))
    draws = Draws(channels_first(record["eps_0"]), u, channels_first(record["eps_t"]))
    terms = bound(model.given(), channels_first(record["images"]), draws, n_steps)
    for ours, theirs in (
        (terms.prior, "loss_klz"),
        (terms.reconstruction, "loss_recon"),
        (terms.diffusion, "loss_diff"),
    ):
        torch.testing.assert_close(ours, torch.tensor(record[theirs]).double(), rtol=1e-4, atol=0)


def test_the_rewritten_network_is_the_official_one(golden):
    _, record, _, path = golden
    eps_hat = official_eps_hat(unpack(path)["ema_params"], record["z"], record["g"])
    torch.testing.assert_close(eps_hat.float(), torch.tensor(record["eps_hat"]), rtol=1e-4, atol=1e-5)


# What it would compute with other configurations

VARIANTS = [
    {"gamma_type": "fixed"},
    {"gamma_type": "learnable_scalar", "n_blocks": 2, "n_fourier": 0},
    {"gamma_type": "learnable_nnet"},
    {"attention": True, "n_blocks": 2},
    {"attention": True, "n_fourier": 0, "gamma_type": "learnable_nnet", "n_channels": 64},
    {"n_image": 1},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@torch.no_grad()
def test_every_configuration_is_read_from_names_and_shapes(official_params, write, variant):
    params = official_params(**variant)
    model = read_official_vdm(write(params), size=8)
    z = np.random.default_rng(1).standard_normal((3, 8, 8, model.image_shape[0])).astype("f4")
    g = np.array([-13.0, -4.0, 4.5], "f4")
    eps_hat = model.denoise(channels_first(z), torch.tensor(g))
    theirs = official_eps_hat(params, z, g).movedim(-1, 1).float()
    torch.testing.assert_close(eps_hat, theirs, rtol=1e-4, atol=1e-4)
    t = np.linspace(0, 1, 23)
    torch.testing.assert_close(model.noise_schedule(torch.tensor(t)), torch.tensor(official_gamma(params, t)))


@pytest.mark.parametrize("gamma_type", ["fixed", "learnable_scalar", "learnable_nnet"])
def test_what_the_official_code_learns_is_learned_on(official_params, write, gamma_type):
    model = read_official_vdm(write(official_params(gamma_type=gamma_type)))
    assert model.noise_schedule.is_learned == (gamma_type != "fixed")
    assert all(parameter.requires_grad for parameter in model.net.parameters())
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert {parameter.dtype for parameter in model.net.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in model.noise_schedule.parameters()} == {torch.float64}
    assert not model.training


@pytest.mark.parametrize("gamma_type", ["fixed", "learnable_scalar", "learnable_nnet"])
def test_the_model_folder_holds_the_same_model(tmp_path, official_params, write, gamma_type):
    checkpoint = write(official_params(gamma_type=gamma_type))
    import_official_vdm(checkpoint, tmp_path / "model", size=16)
    read, loaded = read_official_vdm(checkpoint, 16), nelbo.load(tmp_path / "model")
    assert loaded.config == read.config
    torch.testing.assert_close(loaded.state_dict(), read.state_dict(), rtol=0, atol=0)


def test_gamma_range_is_what_the_time_embedding_is_scaled_by():
    """A checkpoint trained with other ends reads the same noise level at another place between them."""
    path = GOLDEN / "official_vdm_scalar.flax"
    usual, wide = read_official_vdm(path, 16), read_official_vdm(path, 16, (-20.0, 10.0))
    z = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for place in (0.0, 0.25, 1.0):
        here, there = torch.full((2,), -13.3 + 18.3 * place), torch.full((2,), -20.0 + 30.0 * place)
        torch.testing.assert_close(wide.net(z, there), usual.net(z, here), rtol=1e-4, atol=1e-4)
    with pytest.raises(NelboError, match="must increase"):
        read_official_vdm(path, 16, (5.0, -13.3))
