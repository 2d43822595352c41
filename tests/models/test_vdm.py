"""A model folder gives back the model bit for bit; a damaged one is refused in one line that names the file."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from nelbo.diffusion.noise_schedule import NOISE_SCHEDULES, Cosine, Linear, MonotoneNetwork, Table
from nelbo.errors import NelboError
from nelbo.models.config import (
    ModelConfig,
    UNetMultiscaleConfig,
    parse_model_config,
)
from nelbo.models.folder import load, save
from nelbo.models.noise_schedule_config import settings_of
from nelbo.models.vdm import VDM

from fixtures.networks import small_multiscale, small_unet

CONFIGS = {
    "unet": ModelConfig(image_shape=(3, 8, 8), net=small_unet(), noise_schedule=settings_of(Linear)(learned=True)),
    "unet_multiscale": ModelConfig(
        image_shape=(1, 8, 12),
        net=small_multiscale(patch=2, heads=(0, 2)),
        noise_schedule=settings_of(Cosine)(),
        prediction="v",
    ),
    "unet_with_attention": ModelConfig(
        image_shape=(1, 4, 4),
        net=small_unet(attention=True, fourier=()),
        noise_schedule=settings_of(MonotoneNetwork)(n_units=8),
        decoder="discretised_gaussian",
    ),
    "table": ModelConfig(
        image_shape=(3, 8, 8), net=small_unet(), noise_schedule=settings_of(Table)(gammas=(-13.3, 0.1, 5.0))
    ),
    "from_outside": ModelConfig(
        image_shape=(1, 4, 4), net=small_unet(), noise_schedule=settings_of(NOISE_SCHEDULES["power"])(exponent=3.0)
    ),
}
UNET = CONFIGS["unet"]


def random_model(config, scale=0.05):
    model = VDM(config).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype))
    return model


def inputs(model, n=2):
    z = torch.randn(n, *model.image_shape, generator=torch.Generator().manual_seed(1))
    return z, torch.linspace(-13.3, 5.0, n, dtype=torch.float64)


def images(model, n=3):
    return torch.randint(256, (n, *model.image_shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def folder(tmp_path):
    save(random_model(UNET), tmp_path / "model", "# A card\n")
    return tmp_path / "model"


# Folders


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_loaded_model_is_the_saved_one_bit_for_bit(tmp_path, config):
    model = random_model(config)
    save(model, tmp_path / "new" / "model", "# A card\n")
    loaded = load(tmp_path / "new" / "model")
    assert loaded.config == config
    assert not loaded.training
    torch.testing.assert_close(dict(loaded.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(loaded.denoise(*inputs(model)), model.denoise(*inputs(model)), rtol=0, atol=0)
    assert (tmp_path / "new" / "model" / "README.md").read_text() == "# A card\n"


def test_saving_replaces_the_whole_folder(folder):
    (folder / "stale").touch()
    save(random_model(CONFIGS["table"]), folder, "another card")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert load(folder).config == CONFIGS["table"]


def test_the_memory_format_of_the_weights_is_not_saved(tmp_path):
    model = random_model(UNET)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = module.weight.data.to(memory_format=torch.channels_last)
    save(model, tmp_path / "model", "")
    torch.testing.assert_close(dict(load(tmp_path / "model").state_dict()), dict(model.state_dict()), rtol=0, atol=0)


def test_half_precision_weights_are_promoted(folder):
    weights = load_file(folder / "model.safetensors")
    halves = {name: tensor.half() if tensor.dtype == torch.float32 else tensor for name, tensor in weights.items()}
    save_file(halves, folder / "model.safetensors")
    loaded = load(folder)
    assert all(parameter.dtype == torch.float32 for parameter in loaded.net.parameters())
    torch.testing.assert_close(dict(loaded.state_dict()), weights, rtol=1e-3, atol=1e-6)


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def renamed_weight(path):
    weights = load_file(path)
    weights["net.other"] = weights.pop("net.conv_in.weight")
    save_file(weights, path)


def reshaped_weight(path):
    save_file(load_file(path) | {"net.conv_in.weight": torch.zeros(2, 2)}, path)


def changed(**fields):
    def change(path):
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | fields))

    return change


WEIGHT_DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "foreign": lambda path: path.write_bytes(b"PK\x03\x04" * 100),
    "truncated": truncated,
    "renamed": renamed_weight,
    "reshaped": reshaped_weight,
}
CONFIG_DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_text(""),
    "no json": lambda path: path.write_text("{"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\xfd"),
    "no object": lambda path: path.write_text("[1, 2]"),
    "unknown field": changed(colour="red"),
    "unknown net": changed(net={"type": "transformer"}),
    "wrong type": changed(image_shape=[3, "x", 8]),
    "out of range": changed(net={"type": "unet", "dropout": 2}),
    "unknown decoder": changed(decoder="magic"),
    "decreasing schedule": changed(noise_schedule={"type": "linear", "gamma_0": 5, "gamma_1": -13}),
    "decreasing table": changed(noise_schedule={"type": "table", "gammas": [1, 0]}),
    "uneven stages": changed(net={"type": "unet_multiscale", "channels": [8], "heads": [0, 0]}),
}


@pytest.mark.parametrize("damage", WEIGHT_DAMAGES.values(), ids=WEIGHT_DAMAGES.keys())
def test_damaged_weights_are_refused(folder, damage):
    refused(folder, "model.safetensors", damage)


@pytest.mark.parametrize("damage", CONFIG_DAMAGES.values(), ids=CONFIG_DAMAGES.keys())
def test_a_damaged_configuration_is_refused(folder, damage):
    refused(folder, "config.json", damage)


def refused(folder, name, damage):
    damage(folder / name)
    with pytest.raises(NelboError) as caught:
        load(folder)
    message = str(caught.value)
    assert str(folder / name) in message
    assert "\n" not in message


def test_a_model_that_does_not_exist_is_named(tmp_path):
    for name in (tmp_path / "nothing", "no-such-model"):
        with pytest.raises(NelboError, match=f"no model '{name}'"):
            load(name)
    (tmp_path / "file").touch()
    with pytest.raises(NelboError, match="neither a model folder nor a bundled model"):
        load(tmp_path / "file")


# The interface


def test_the_bound_takes_8_bit_images_of_its_shape_and_nothing_else():
    model = random_model(UNET)
    with pytest.raises(NelboError, match=r"\(3, 8, 8\).*\(3, 8, 9\)"):
        model.bound(torch.zeros(2, 3, 8, 9, dtype=torch.uint8))
    with pytest.raises(NelboError, match=r"\(3, 8, 8\).*\(1, 8, 8\)"):
        model.bound(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    for n_steps in (0, True, 10**18):
        with pytest.raises(NelboError, match=r"at least 1 step|is an integer"):
            model.bound(images(model), n_steps=n_steps)
    for dtype in (torch.float32, torch.int64):
        with pytest.raises(NelboError, match="uint8"):
            model.check_images(torch.zeros(2, 3, 8, 8, dtype=dtype))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_image_gets_its_three_terms(config):
    model = random_model(config)
    result = model.bound(images(model))
    assert result.n_dims == math.prod(model.image_shape) == model.n_dims
    for term in (result.prior, result.reconstruction, result.diffusion):
        assert term.shape == (3,)
        assert term.dtype == torch.float64
        assert not term.requires_grad
        assert bool((term > 0).all())


def test_the_bound_is_a_function_of_the_seed():
    model = random_model(UNET)
    first, again, other = (model.bound(images(model), seed=seed).total for seed in (0, 0, 1))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)


def test_eps_and_v_are_the_same_model_when_their_outputs_match():
    r"""With :math:`v = (\alpha z - \hat x)/\sigma` in place of :math:`\hat\epsilon`, the prediction is the same."""
    of_eps = random_model(UNET)
    of_v = random_model(UNET.model_copy(update={"prediction": "v"}))
    z, gamma = inputs(of_eps, 5)
    alpha, sigma = (torch.sigmoid(sign * gamma).sqrt().reshape(-1, 1, 1, 1) for sign in (-1, 1))
    eps_hat = of_eps.denoise(z, gamma)
    x_hat = (z.double() - sigma * eps_hat) / alpha
    v_hat = alpha * eps_hat - sigma * x_hat
    of_v.net.forward = lambda z, gamma, *_: v_hat.float()
    torch.testing.assert_close(of_v.denoise(z, gamma), eps_hat, rtol=1e-5, atol=1e-4)


def test_a_model_is_where_its_parameters_and_buffers_are():
    assert random_model(CONFIGS["table"]).to("meta").device == torch.device("meta")


def test_a_folder_that_is_no_model_is_not_replaced(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(NelboError, match="no model folder"):
        save(random_model(UNET), tmp_path, "card")
    assert [file.name for file in tmp_path.iterdir()] == ["precious.txt"]


def test_measuring_a_model_in_training_mode_does_not_drop_features():
    model = random_model(UNET).train()
    images = torch.randint(256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    first, second = model.bound(images), model.bound(images)
    torch.testing.assert_close(first.total, second.total, rtol=0, atol=0)


def test_no_images_and_negative_seeds_are_refused():
    model = random_model(UNET)
    with pytest.raises(NelboError, match="no images"):
        model.check_images(torch.zeros(0, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(NelboError, match="-1"):
        model.bound(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), seed=-1)


@pytest.mark.parametrize(
    "settings",
    [
        {"image_shape": [3, 0, 8]},
        {"image_shape": [2, 8, 8]},
        {"net": {"type": "unet", "gamma_range": [5, 5]}},
        {"net": {"type": "unet", "fourier": [200]}},
        {"net": {"type": "unet_multiscale", "channels": []}},
        {"net": {"type": "unet_multiscale", "channels": [0, 64, 128]}},
        {"net": {"type": "unet_multiscale", "heads": [0, 0, -4]}},
        {"net": {"type": "unet_multiscale", "n_blocks_up": [2, -2, 1]}},
        {"net": {"type": "no_such_net"}},
        {"no_such_field": 1},
    ],
)
def test_a_configuration_that_makes_no_sense_is_one_line(settings):
    with pytest.raises(NelboError) as caught:
        parse_model_config(json.dumps(settings), "config.json")
    assert str(caught.value).startswith("config.json: ")
    assert "\n" not in str(caught.value)


def test_heads_must_divide_their_channels():
    config = UNetMultiscaleConfig(channels=(32, 64, 128), heads=(0, 0, 3))
    with pytest.raises(NelboError, match="divide"):
        config.build(3)
