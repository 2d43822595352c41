"""The code blocks of docs/interop.md run as they stand, and its recipes mean what the authors' own code means."""

import pickle
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

import nelbo
from nelbo.cli.main import main
from nelbo.diffusion import gaussian
from nelbo.interop.guided_diffusion import GuidedDiffusionConfig
from nelbo.interop.improved_diffusion import ImprovedDiffusionConfig
from nelbo.interop.units import DEFAULT_UNITS

PAGE = (Path(__file__).parents[2] / "docs" / "interop.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
TOPOLOGY = {"n_channels": 32, "multipliers": (1, 2), "n_blocks": 1, "attention": (2,), "modulated": True}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Lays out the files that the page speaks of, and lets the authors' stand-ins be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent / "authors")
    lucidrains, networks = import_module("denoising_diffusion_pytorch"), import_module("networks")
    torch.manual_seed(0)
    rows = np.linspace(0, 200, 32)[None, :, None, None] + np.random.default_rng(0).normal(20, 5, (4, 32, 32, 3))
    np.savez(tmp_path / "my-images.npz", images=rows.clip(0, 255).astype(np.uint8))
    unet = UNet2DModel(
        sample_size=32,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=20)).save_pretrained("google/ddpm-cifar10-32")
    torch.save(networks.Timed(), "mine.pt")
    torch.save(networks.Velocity(), "flow.pt")
    with Path("edm-cifar10-32x32-uncond-vp.pkl").open("wb") as file:
        pickle.dump({"ema": networks.Preconditioned()}, file)
    author = lucidrains.GaussianDiffusion(lucidrains.Unet(dim=16), image_size=32)
    torch.save({"step": 10, "model": author.state_dict()}, "model-10.pt")
    fields = {"net": TOPOLOGY, "n_steps": 1000, "schedule": "cosine", "heads": 4, "heads_up": 4}
    fields |= {"ddpm": {"image_shape": (3, 32, 32)}, "rescale_timesteps": False}
    checkpoints = {
        "ema_0.9999_500000.pt": ImprovedDiffusionConfig(**fields),
        "64x64_diffusion.pt": GuidedDiffusionConfig(**fields, head_channels=32, resblock_updown=True),
    }
    for name, config in checkpoints.items():
        torch.save(config.build_net().state_dict(), name)
    return tmp_path


def run(language, code, names):
    """Runs a block: Python in one namespace, or a file of its own if it names one; commands one after the other."""
    if language == "bash":
        for line in code.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "nelbo"
            main(arguments)
    elif match := re.match(r"# (\S+\.py)\n", code):
        Path(match[1]).write_text(code)
    else:
        exec(compile(code, "docs/interop.md", "exec"), names)


def denoised(model, t):
    """Returns latents in the author's units, and the noise that the model finds in them at a timestep."""
    theirs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(t))
    gamma = model.gammas[t].expand(2)
    scale = gaussian.sigma(gamma) / gaussian.sigma(gamma + DEFAULT_UNITS.gamma_shift)
    with torch.no_grad():
        return theirs, model.predict(gaussian.over_image(scale, theirs) * theirs, gamma)[0]


@pytest.mark.filterwarnings("ignore")
def test_every_block_runs_and_the_recipes_are_the_authors(files, capsys):
    names: dict[str, Any] = {"__name__": "page"}
    for language, code in BLOCKS:
        run(language, code, names)
        assert len([line for line in code.splitlines() if line.strip()]) <= 20
    for t in (3, 700):
        author, model = names["GaussianDiffusion"], names["model"]
        lucidrains = author(names["Unet"](dim=16, dim_mults=(1, 2)), image_size=32, objective="pred_v")
        lucidrains.load_state_dict(torch.load("model-10.pt")["model"])
        theirs, eps_hat = denoised(model, t)
        with torch.no_grad():
            expected = lucidrains.model_predictions(theirs, torch.tensor([t, t])).pred_noise
        torch.testing.assert_close(eps_hat, expected, rtol=2e-3, atol=2e-3)
    ho, diffusion = names["ho"], names["diffusion"]
    assert ho.reverse_kernel == "forward"
    bar = torch.from_numpy(np.cumprod(diffusion.alphas))
    torch.testing.assert_close(ho.gammas + DEFAULT_UNITS.gamma_shift, torch.log((1 - bar) / bar), rtol=1e-9, atol=1e-9)
    theirs, eps_hat = denoised(ho, 900)
    with torch.no_grad():
        output = diffusion.model(theirs, torch.tensor([900.0, 900.0]))
    start = ((theirs - (1 - bar[900]).sqrt() * output) / bar[900].sqrt()).clamp(-1, 1)
    torch.testing.assert_close(eps_hat, ((theirs - bar[900].sqrt() * start) / (1 - bar[900]).sqrt()).float())
    assert nelbo.load("out/guided").image_shape == (3, 64, 64)
    improved = nelbo.load("out/improved").gammas
    assert improved is not None
    assert len(improved) == 4000
    assert "warning" not in capsys.readouterr().out.split("images")[0]


def test_recipes_have_at_most_ten_lines():
    recipes = PAGE.split("## Recipes")[1].split("## From the command line")[0]
    for _, code in re.findall(r"```(\w+)\n(.*?)```", recipes, re.DOTALL):
        assert len([line for line in code.splitlines() if line.strip()]) <= 10
    (ten,) = [code for language, code in BLOCKS if language == "python" and "def eps" in code]
    assert len([line for line in ten.splitlines() if line.strip()]) <= 10


@torch.no_grad()
def test_the_recipes_of_continuous_levels_are_the_authors(files):
    networks = import_module("networks")
    z, gamma = torch.randn(2, 3, 32, 32), torch.tensor([-3.0, 2.0], dtype=torch.float64)
    shift = DEFAULT_UNITS.gamma_shift
    edm, flow = networks.Preconditioned(), networks.Velocity()
    x = edm(z / gaussian.over_image(gaussian.alpha(gamma), z) * DEFAULT_UNITS.scale, torch.exp((gamma + shift) / 2))
    model = nelbo.from_denoiser(edm, (3, 32, 32), prediction="x", coordinate="sigma", range=(0.002, 80.0))
    found = gaussian.denoised(z, model.predict(z, gamma)[0], gamma) * DEFAULT_UNITS.scale
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)
    noise_share = torch.sigmoid((gamma + shift) / 2)  # t of data at 0
    theirs = z * gaussian.over_image((1 - noise_share) / gaussian.alpha(gamma) * DEFAULT_UNITS.scale, z)
    v = flow((1 - noise_share).float(), theirs)
    image = theirs + gaussian.over_image(noise_share, z) * v  # Straight to t = 1, the data.
    model = nelbo.from_denoiser(lambda y, t: -flow(1 - t, y), (3, 32, 32), prediction="flow", coordinate="t")
    found = gaussian.denoised(z, model.predict(z, gamma)[0], gamma) * DEFAULT_UNITS.scale
    torch.testing.assert_close(found, image, rtol=1e-4, atol=1e-4)
