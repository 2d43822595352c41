"""What is exported for a pipeline is the chain that it walks: its bound is the predicted one, and the best."""

import json
import math
from functools import cache

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers import scheduling_ddpm
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

import nelbo
from nelbo.cli.main import main
from nelbo.diffusion.bound import even_nodes
from nelbo.diffusion.draws import chain_draws
from nelbo.errors import NelboError
from nelbo.interop.ddpm import DDPM
from nelbo.interop.export import pipeline_schedules, save_timesteps, timesteps
from nelbo.interop.spectral_scheduler import spectral_scheduler
from nelbo.interop.timetable_scheduler import timetable_scheduler

N, SHAPE, BUDGETS = 60, (1, 8, 8), (4, 8, 16, 32)
VARIANCES = ("fixed_small", "fixed_large", "learned_range")
ROWS = torch.linspace(60, 200, 8)[None, None, :, None] + 20 * torch.randn(6, 1, 1, 1)
IMAGES = (ROWS + 6 * torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0))).clamp(0, 255).to(torch.uint8)


def unet_of(variance):
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=2 if variance == "learned_range" else 1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Returns the folder of a pipeline, its model, and the model's error table on the images."""

    @cache
    def save(variance):
        folder, kinds = tmp_path_factory.mktemp(variance), () if variance == "fixed_large" else ("channels", "causal")
        scheduler = DDPMScheduler(num_train_timesteps=N, beta_end=0.15, variance_type=variance)
        DDPMPipeline(unet_of(variance), scheduler).save_pretrained(folder)
        model = nelbo.load(folder)
        assert isinstance(model, DDPM)
        return folder, model, nelbo.error_table(model, IMAGES, precision="float32", exit_kinds=kinds)

    return save


@torch.no_grad()
def walked_bound(scheduler, unet, chain, monkeypatch):
    """Returns the bound in bits per dimension of the chain that a scheduler's own code walks over timesteps.

    Its mean is what its step returns without noise, its standard deviation what noise of ones adds. The last step ends
    at its mean; by the convention of Ho et al. it decodes with beta tilde of the second step (and, learned, up to beta
    of the first).
    """
    bar = (1 - scheduler.betas.double()).cumprod(0)
    y = IMAGES.double() / 127.5 - 1
    noise = chain_draws(range(len(y)), SHAPE, 0)[1].double()
    scheduler.set_timesteps(timesteps=list(chain))
    nats = 0.5 * (bar[chain[0]] * (y.square() - 1) - torch.log1p(-bar[chain[0]]))
    for t, s in zip(chain, [*chain[1:], None], strict=True):
        z = bar[t].sqrt() * y + (1 - bar[t]).sqrt() * noise
        output = unet(z.float(), t).sample
        ends = []
        for value in (0.0, 1.0):
            fill = lambda shape, value=value, **_: torch.full(tuple(shape), value)  # noqa: E731
            monkeypatch.setattr(scheduling_ddpm, "randn_tensor", fill)
            ends.append(scheduler.step(output, t, z.float(), return_dict=False)[0].double())
        mean, std = ends[0], ends[1] - ends[0]
        if s is None:
            small = scheduler.betas[1].double() * (1 - bar[0]) / (1 - bar[1])
            weight = (output[:, 1:].double() + 1) / 2 if output.shape[1] == 2 else 0.0
            std = torch.exp(0.5 * (weight * (1 - bar[0]).log() + (1 - weight) * small.log()))
            upper = torch.where(IMAGES == 255, math.inf, (y + 1 / 255 - mean) / std)
            lower = torch.where(IMAGES == 0, -math.inf, (y - 1 / 255 - mean) / std)
            flip = lower > -upper
            upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
            high, low = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
            nats = nats - (high + torch.log(-torch.expm1(low - high)))
        else:
            beta = 1 - bar[t] / bar[s]
            center = (bar[s].sqrt() * beta * y + (bar[t] / bar[s]).sqrt() * (1 - bar[s]) * z) / (1 - bar[t])
            variance = beta * (1 - bar[s]) / (1 - bar[t])
            nats = nats + torch.log(std / variance.sqrt()) + (variance + (center - mean).square()) / (2 * std**2) - 0.5
    return nats.mean().item() / math.log(2)


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_exported_chain_has_the_predicted_bound_and_no_spacing_a_better_one(saved, variance, monkeypatch):
    _, model, table = saved(variance)
    plain, unet = DDPMScheduler(num_train_timesteps=N, beta_end=0.15, variance_type=variance), unet_of(variance)
    found = pipeline_schedules(table, model, BUDGETS)
    ours = timetable_scheduler(plain, {budget: found[budget] for budget in BUDGETS})
    for budget in BUDGETS:
        chain = timesteps(model, found[budget])
        measured = walked_bound(ours, unet, chain, monkeypatch)
        assert measured == pytest.approx(found[budget].bpd, rel=5e-3)  # Of the same images and noise.
        spacings = {"even": even_nodes(N, budget)[::-1]}
        for spacing in ("leading", "trailing", "linspace"):
            other = DDPMScheduler(num_train_timesteps=N, timestep_spacing=spacing)
            other.set_timesteps(budget)
            spacings[spacing] = other.timesteps.tolist()
        for name, spaced in spacings.items():
            assert measured <= walked_bound(ours, unet, spaced, monkeypatch) * (1 + 2e-3), (budget, name)


def test_the_command_writes_the_chains_of_the_pipeline(saved, tmp_path, capsys):
    folder, model, _ = saved("fixed_large")
    np.save(tmp_path / "images.npy", IMAGES.numpy())
    data = ["--data", str(tmp_path / "images.npy"), "--budgets", "4,8", "--precision", "float32"]
    main(["schedule", str(folder), *data, "--out", str(tmp_path / "out")])
    assert "for pipelines (forward kernel, own last step): " in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "timesteps.json").read_text())
    table = nelbo.time_schedule.error_table.load_table(tmp_path / "out" / "errors.safetensors")
    for budget in (4, 8):
        expected = pipeline_schedules(table, model, [budget])[budget]
        assert content["timesteps"][str(budget)] == timesteps(model, expected)
        assert content["bpd"][str(budget)] == pytest.approx(expected.bpd)
    spectral = nelbo.TimeSchedule.load(tmp_path / "out" / "4.safetensors")
    assert spectral.reverse == "spectral"


def test_a_chain_that_no_pipeline_walks_is_refused_with_the_cure(saved, tmp_path):
    _, model, table = saved("fixed_small")
    spectral = nelbo.optimal_schedules(table, [4])[4]
    decoded = nelbo.optimal_schedules(table, [4], "posterior", exits=["causal"])[4]
    large = nelbo.optimal_schedules(table, [4], "forward", exits=["decoder"])[4]
    scheduler = DDPMScheduler(num_train_timesteps=N, beta_end=0.15)
    for schedule, says in ((spectral, "spectral kernel"), (decoded, "ends with the causal exit"), (large, "forward")):
        for refuses in (
            lambda schedule=schedule: timesteps(model, schedule),
            lambda schedule=schedule: timetable_scheduler(scheduler, {4: schedule}),
            lambda schedule=schedule: save_timesteps(tmp_path / "t.json", model, {4: schedule}),
        ):
            with pytest.raises(
                NelboError, match=f"{says}.*take one of nelbo.interop.export.pipeline_schedules"
            ) as caught:
                refuses()
            assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def our_walk(model, schedule, n):
    """Returns the chain in our units with the noise that a pipeline draws; images in [0, 1]."""
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(n, *SHAPE, generator=generator)
    for step in range(len(schedule.gammas) - 2, -1, -1):
        gamma_s, gamma_t = (schedule.gammas[i].expand(n) for i in (step, step + 1))
        eps_hat, nu = model.predict(z, gamma_t)
        noise = torch.randn(n, *SHAPE, generator=generator)
        z = schedule.kernel(step).step(z, eps_hat, gamma_s, gamma_t, noise, nu)
    gamma = schedule.gammas[0].expand(n)
    x_hat = nelbo.diffusion.gaussian.denoised(z, model.predict(z, gamma)[0], gamma)
    if schedule.exit is None:
        return ((256 / 255 * x_hat + 1) / 2).clamp(0, 1).numpy()
    return schedule.exit.sample(x_hat, torch.randn(n, *SHAPE, generator=generator)).numpy() / 255


@pytest.mark.parametrize(("reverse", "exits"), [("spectral", None), ("analytic", ["decoder"]), ("learned-range", None)])
def test_a_spectral_scheduler_walks_our_chain_in_a_pipeline_and_survives_saving(saved, tmp_path, reverse, exits):
    variance = "learned_range" if reverse == "learned-range" else "fixed_small"
    folder, model, table = saved(variance)
    found = nelbo.optimal_schedules(table, [4, 8], reverse, exits)
    pipeline = DDPMPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    pipeline.scheduler = spectral_scheduler(model, {4: found[4], 8: found[8]})
    pipeline.save_pretrained(tmp_path / "pipeline")
    again = DDPMPipeline.from_pretrained(tmp_path / "pipeline", low_cpu_mem_usage=False)
    for each in (pipeline, again):
        each.set_progress_bar_config(disable=True)
        for budget in (4, 8):
            generator = torch.Generator().manual_seed(3)
            pictures = each(2, generator, budget, output_type="np").images  # pyright: ignore[reportAttributeAccessIssue]
            pictures = np.asarray(pictures).transpose(0, 3, 1, 2)
            expected = our_walk(model, found[budget], 2)
            assert np.abs(pictures - expected).mean() < 1e-3  # Rounding moves some grey levels by one.
    with pytest.raises(NelboError, match="no schedule is stored for 5 steps: take 4, 8"):
        pipeline(num_inference_steps=5)


def test_a_spectral_scheduler_takes_schedules_of_its_model_alone(saved):
    _, model, table = saved("fixed_small")
    other = nelbo.from_callable(lambda x, t: x, model.betas, SHAPE)
    schedule = nelbo.optimal_schedules(table, [4])[4]
    for refuses, says in (
        (lambda: spectral_scheduler(model, {}), "there are no schedules"),
        (lambda: spectral_scheduler(model, {5: schedule}), "a schedule of 4 steps is given for 5"),
        (lambda: spectral_scheduler(other, {4: schedule}), "was made for model"),
    ):
        with pytest.raises(NelboError, match=says):
            refuses()
