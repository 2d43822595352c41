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


def variants(*names):
    """Renames the plain weights, with a copy for each variant."""

    def apply(folder):
        plain = folder / WEIGHTS
        for name in names:
            shutil.copy(plain, plain.with_suffix(f".{name}.safetensors"))
        plain.unlink()

    return apply


def keep_the_network_alone(folder):
    for file in (folder / "unet").iterdir():
        file.rename(folder / file.name)
    for name in (SCHEDULER, INDEX):
        (folder / name).unlink()


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
    "another scheduler": (
        change(SCHEDULER, _class_name="FlowMatchEulerDiscreteScheduler"),
        "scheduler is a FlowMatchEulerDiscreteScheduler, which has no betas",
    ),
    "continuous levels": (change(SCHEDULER, timestep_type="continuous"), "continuous noise levels: wrap the network"),
    "flow sigmas": (change(SCHEDULER, use_flow_sigmas=True), "nelbo.from_denoiser"),
    "an embedding of sigmas": (change(NET, time_embedding_type="fourier"), "which timestep 0 does not have"),
    "an odd size": (change(NET, sample_size=9), "sides must be multiples of 2: write the size of its images"),
    "an odd side": (change(NET, sample_size=[8, 9]), "sample_size [8, 9], and it halves images to 1/2"),
    "two variants": (variants("fp16", "bf16"), "has the variants bf16, fp16 and no plain weights"),
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
    "a network alone": (keep_the_network_alone, "has no scheduler/scheduler_config.json"),
    "no weights": (remove(WEIGHTS), "has no weights: copy diffusion_pytorch_model.safetensors beside its config.json"),
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


RELATIVES = {
    "DDIMScheduler": {},
    "PNDMScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverSinglestepScheduler": {},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "HeunDiscreteScheduler": {},
    "KDPM2DiscreteScheduler": {},
    "LMSDiscreteScheduler": {},
    "UniPCMultistepScheduler": {},
    "DEISMultistepScheduler": {},
    "LCMScheduler": {},
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Of numpy, about diffusers.
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
@pytest.mark.parametrize("name", RELATIVES)
def test_every_scheduler_with_betas_is_read(tmp_path, name, beta_schedule):
    import diffusers

    save(tmp_path / "pipeline")
    betas = {"beta_schedule": beta_schedule, "beta_start": 0.001, "beta_end": 0.1, "prediction_type": "v_prediction"}
    other = getattr(diffusers, name)(num_train_timesteps=N, **betas)
    other.save_pretrained(tmp_path / "pipeline" / "scheduler")
    model = load(tmp_path / "pipeline")
    bar = (1 - other.betas.double()).cumprod(0)
    theirs = model.gammas + DEFAULT_UNITS.gamma_shift
    torch.testing.assert_close(theirs, torch.log((1 - bar) / bar), rtol=1e-6, atol=1e-6)
    assert (model.config.prediction, model.config.variance) == ("v", "fixed_small")
    again = DDPMScheduler.from_config(other.config)
    assert isinstance(again, DDPMScheduler)
    again.save_pretrained(tmp_path / "pipeline" / "scheduler")
    assert torch.equal(load(tmp_path / "pipeline").gammas, model.gammas)


def test_a_solver_that_needs_another_package_is_read_from_its_settings(tmp_path):
    save(tmp_path / "pipeline", beta_start=0.001, beta_end=0.1)
    expected = load(tmp_path / "pipeline").gammas
    change(SCHEDULER, _class_name="DPMSolverSDEScheduler", noise_sampler_seed=None)(tmp_path / "pipeline")
    assert torch.equal(load(tmp_path / "pipeline").gammas, expected)


def test_twice_the_outputs_are_learned_variances_where_the_scheduler_says_nothing(tmp_path):
    DDPMPipeline(unet_of(outputs=2), scheduler_of(variance_type="learned_range")).save_pretrained(tmp_path / "pipeline")
    DDIMScheduler(num_train_timesteps=N).save_pretrained(tmp_path / "pipeline" / "scheduler")
    assert load(tmp_path / "pipeline").reverse_kernel == "learned-range"


def test_a_variant_of_the_weights_is_read_where_there_are_no_plain_ones(tmp_path):
    unet, _ = save(tmp_path / "pipeline")
    expected = load(tmp_path / "pipeline").state_dict()
    variants("fp16", "bf16")(tmp_path / "pipeline")
    (tmp_path / "pipeline" / WEIGHTS.replace(".safetensors", ".bf16.safetensors")).unlink()
    found = load(tmp_path / "pipeline").state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    unet.half().save_pretrained(tmp_path / "pipeline" / "unet", variant="fp16")
    halves = load(tmp_path / "pipeline").state_dict()
    assert all(halves[name].dtype == expected[name].dtype for name in expected)
    torch.testing.assert_close(halves, expected, rtol=1e-3, atol=1e-3)


def test_without_diffusers_the_message_says_what_to_install(tmp_path, monkeypatch):
    save(tmp_path / "pipeline")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(NelboError, match=r"pip install 'nelbo\[diffusers\]'"):
        nelbo.load(tmp_path / "pipeline")
