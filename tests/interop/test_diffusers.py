"""What diffusers saved is what we read: its U-Net, its betas, its settings; one line for anything else."""

import json
import math
import shutil
import sys

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

import nelbo
from nelbo.diffusion import gaussian
from nelbo.errors import NelboError
from nelbo.interop.ddpm import DDPM
from nelbo.interop.units import DEFAULT_UNITS, PIXEL_SCALE

N = 50
SETTINGS = {
    "as diffusers has it": {},
    "image, beta": {"prediction_type": "sample", "variance_type": "fixed_large"},
    "v, no clipping": {"prediction_type": "v_prediction", "clip_sample": False},
    "learned variances": {"variance_type": "learned_range"},
    "scaled betas": {"beta_schedule": "scaled_linear", "variance_type": "fixed_large_log"},
    "cosine betas": {"beta_schedule": "squaredcos_cap_v2", "clip_sample_range": 2.0},
    "sigmoid betas": {"beta_schedule": "sigmoid", "variance_type": "fixed_small_log"},
    "given betas": {"trained_betas": [0.001 * (i + 1) for i in range(N)]},
    "zero terminal SNR": {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
}
VARIANCE = {"fixed_small_log": "fixed_small", "fixed_large_log": "fixed_large"}


def unet_of(channels=1, outputs=None, size: int | tuple[int, int] = 8, n_classes=None):
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=outputs or channels,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=n_classes,
    ).eval()


def scheduler_of(**settings):
    return DDPMScheduler(num_train_timesteps=N, **settings)


def save(folder, channels=1, size: int | tuple[int, int] = 8, **settings):
    """Saves a pipeline and returns its U-Net and its scheduler."""
    scheduler = scheduler_of(**settings)
    outputs = channels * (2 if settings.get("variance_type") == "learned_range" else 1)
    unet = unet_of(channels, outputs, size)
    DDPMPipeline(unet, scheduler).save_pretrained(folder)
    return unet, scheduler


def load(folder) -> DDPM:
    model = nelbo.load(folder)
    assert isinstance(model, DDPM)
    return model


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_the_denoised_image_is_the_schedulers(tmp_path, name):
    unet, scheduler = save(tmp_path / "pipeline", **SETTINGS[name])
    model = load(tmp_path / "pipeline")
    last = len(model.gammas) - 1
    assert last == (N - 2 if "rescale_betas_zero_snr" in SETTINGS[name] else N - 1)
    for t in (0, 7, last):
        gamma = model.gammas[t].expand(2)
        z = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(t))
        scale = gaussian.sigma(gamma + DEFAULT_UNITS.gamma_shift) / gaussian.sigma(gamma)
        theirs = gaussian.over_image(scale, z) * z
        expected = scheduler.step(unet(theirs, t).sample, t, theirs, return_dict=False)[1]
        eps_hat, nu = model.predict(z, gamma)
        x_hat = PIXEL_SCALE * gaussian.denoised(z.double(), eps_hat.double(), gamma)
        tolerance = 1e-3 if t == last else 1e-4  # Their products of betas are in float32.
        torch.testing.assert_close(x_hat.float(), expected, rtol=tolerance, atol=tolerance)
        assert (nu is None) == (SETTINGS[name].get("variance_type") != "learned_range")


@pytest.mark.parametrize("name", SETTINGS)
def test_gammas_and_the_exit_are_those_of_the_betas(tmp_path, name):
    _, scheduler = save(tmp_path / "pipeline", **SETTINGS[name])
    model = load(tmp_path / "pipeline")
    bar = (1 - scheduler.betas.double()).cumprod(0)[: len(model.gammas)]
    torch.testing.assert_close(
        model.gammas + DEFAULT_UNITS.gamma_shift, torch.log((1 - bar) / bar), rtol=1e-9, atol=1e-9
    )
    tilde = scheduler.betas[1].double() * (1 - bar[0]) / (1 - bar[1])
    assert model.exit_std == pytest.approx(tilde.sqrt().item() / PIXEL_SCALE, rel=1e-9)
    variance = SETTINGS[name].get("variance_type", "fixed_small")
    assert model.config.variance == VARIANCE.get(variance, variance)


def test_any_layout_is_read(tmp_path):
    unet, scheduler = save(tmp_path / "pipeline", channels=3, size=(8, 12))
    parts, flat = tmp_path / "parts", tmp_path / "flat"
    unet.save_pretrained(parts / "unet")
    scheduler.save_pretrained(parts / "scheduler")
    shutil.copytree(tmp_path / "pipeline" / "unet", flat)
    shutil.copy(tmp_path / "pipeline" / "scheduler" / "scheduler_config.json", flat)
    models = [load(tmp_path / "pipeline"), load(parts), load(flat)]
    assert {model.image_shape for model in models} == {(3, 8, 12)}
    states = [model.state_dict() for model in models]
    assert all(torch.equal(state[key], states[0][key]) for state in states for key in states[0])


def test_classes_are_kept(tmp_path):
    unet = unet_of(n_classes=4)
    DDPMPipeline(unet, scheduler_of()).save_pretrained(tmp_path / "pipeline")
    model = load(tmp_path / "pipeline")
    assert model.n_classes == 4
    z, gamma, labels = torch.randn(2, 1, 8, 8), model.gammas[9].expand(2), torch.tensor([3, 1])
    with torch.no_grad():
        swapped = model.denoise(z, gamma, labels.flip(0))
        assert not torch.equal(model.denoise(z, gamma, labels), swapped)


def test_it_is_evaluated_and_sampled(tmp_path):
    save(tmp_path / "pipeline", channels=3)
    model = load(tmp_path / "pipeline")
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    assert math.isfinite(nelbo.evaluate(model, images, n_steps=N - 1, precision="float32").bpd)
    assert nelbo.sample(model, 7, range(2)).shape == (2, 3, 8, 8)


def change(file, **fields):
    def apply(folder):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return apply


def write(file, text):
    return lambda folder: (folder / file).write_text(text)


def remove(file):
    return lambda folder: (folder / file).unlink()


def damage_weights(folder):
    unet = unet_of()
    with torch.no_grad():
        unet.conv_out.weight[0] = math.nan
    unet.save_pretrained(folder / "unet")


NET, SCHEDULER, INDEX = "unet/config.json", "scheduler/scheduler_config.json", "model_index.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
WRONG = {
    "a latent model": (
        change(INDEX, _class_name="LDMPipeline", vqvae=["diffusers", "VQModel"]),
        "LDMPipeline with vqvae",
    ),
    "a conditional network": (change(NET, _class_name="UNet2DConditionModel"), "network is a UNet2DConditionModel"),
    "latents": (change(NET, in_channels=4, out_channels=4), "4 input channels"),
    "odd outputs": (change(NET, out_channels=3), "3 output channels, expected 1 with variance_type fixed_small"),
    "no size": (change(NET, sample_size=None), "sample_size None"),
    "an embedding of times": (change(NET, class_embed_type="timestep"), "conditioned on a timestep"),
    "another scheduler": (change(SCHEDULER, _class_name="DDIMScheduler"), "scheduler is a DDIMScheduler"),
    "thresholding": (change(SCHEDULER, thresholding=True), "thresholding"),
    "learned variances": (change(SCHEDULER, variance_type="learned"), "variance_type 'learned', expected one of"),
    "half of learned range": (
        change(SCHEDULER, variance_type="learned_range"),
        "expected 2 with variance_type learned",
    ),
    "another prediction": (change(SCHEDULER, prediction_type="flow"), "prediction_type 'flow'"),
    "unknown betas": (change(SCHEDULER, beta_schedule="wavy"), "refused by diffusers: wavy is not implemented"),
    "negative betas": (change(SCHEDULER, beta_start=-0.5), "betas must lie between 0 and 1, got -0.5 at timestep 0"),
    "betas above 1": (change(SCHEDULER, trained_betas=[0.1, 2.0]), "got 2.0 at timestep 1"),
    "a negative clip": (change(SCHEDULER, clip_sample_range=-1), "clip_sample_range -1"),
    "no network": (remove(NET), "has no unet/config.json"),
    "no scheduler": (remove(SCHEDULER), "has no scheduler/scheduler_config.json"),
    "no weights": (remove(WEIGHTS), "U-Net cannot be loaded"),
    "damaged weights": (write(WEIGHTS, "no weights"), "U-Net cannot be loaded"),
    "weights of another network": (change(NET, layers_per_block=2), "U-Net cannot be loaded: Error(s) in loading"),
    "weights that lack some": (change(NET, num_class_embeds=3), "missing keys: class_embedding.weight"),
    "weights that hold more": (change(NET, add_attention=False), "unexpected keys: mid_block.attentions.0"),
    "damaged settings": (write(NET, "{"), "config.json cannot be read"),
    "settings that are none": (write(SCHEDULER, "[]"), "holds no settings"),
    "weights that are no numbers": (damage_weights, "is not finite"),
}


@pytest.mark.parametrize("name", WRONG)
def test_anything_else_is_refused_in_one_line(tmp_path, capfd, name):
    apply, says = WRONG[name]
    save(tmp_path / "pipeline")
    apply(tmp_path / "pipeline")
    capfd.readouterr()
    with pytest.raises(NelboError) as caught:
        nelbo.load(tmp_path / "pipeline")
    message = str(caught.value)
    assert says in message
    assert message.startswith(str(tmp_path / "pipeline"))
    assert len(message.splitlines()) == 1
    assert len(message) < 500
    assert capfd.readouterr() == ("", "")


def test_a_scheduler_of_another_kind_can_be_converted_as_the_message_says(tmp_path):
    save(tmp_path / "pipeline")
    other = DDIMScheduler(num_train_timesteps=N)
    other.save_pretrained(tmp_path / "pipeline" / "scheduler")
    with pytest.raises(NelboError, match=r"DDPMScheduler\.from_config"):
        nelbo.load(tmp_path / "pipeline")
    converted = DDPMScheduler.from_config(other.config)
    assert isinstance(converted, DDPMScheduler)
    converted.save_pretrained(tmp_path / "pipeline" / "scheduler")
    assert len(load(tmp_path / "pipeline").gammas) == N


def test_without_diffusers_the_message_says_what_to_install(tmp_path, monkeypatch):
    save(tmp_path / "pipeline")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(NelboError, match=r"pip install 'nelbo\[diffusers\]'"):
        nelbo.load(tmp_path / "pipeline")
