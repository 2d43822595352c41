"""A pipeline of diffusers with a stored timetable walks our ancestral chain: its pairs, variances and last step."""

import pickle

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

import nelbo
from nelbo.diffusion import gaussian
from nelbo.errors import NelboError
from nelbo.interop.ddpm import DDPM
from nelbo.interop.timetable_scheduler import timetable_scheduler
from nelbo.interop.units import DEFAULT_UNITS, PIXEL_SCALE

N, SHAPE, SHIFT = 60, (1, 8, 8), DEFAULT_UNITS.gamma_shift
TABLE = {1: [59], 3: [59, 20, 0], 5: [59, 41, 22, 9, 4]}
VARIANCES = ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range"]


def pipeline_of(variance="fixed_small", timetable=None):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=2 if variance == "learned_range" else 1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    scheduler = DDPMScheduler(num_train_timesteps=N, beta_end=0.15, variance_type=variance)  # pyright: ignore[reportArgumentType]
    pipeline = DDPMPipeline(unet.eval(), timetable_scheduler(scheduler, timetable or TABLE))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sampled(pipeline, n_steps):
    generator = torch.Generator().manual_seed(3)
    return pipeline(2, generator, n_steps, output_type="np").images.transpose(0, 3, 1, 2)


@torch.no_grad()
def ancestral(model, variance, timesteps):
    """Returns our own walk in our units, with the noise that the pipeline draws; images in [0, 1]."""
    generator = torch.Generator().manual_seed(3)
    first = model.gammas[timesteps[0]].expand(2)
    unit = gaussian.over_image(gaussian.sigma(first) / gaussian.sigma(first + SHIFT), torch.empty(2, *SHAPE))
    z = unit * torch.randn(2, *SHAPE, generator=generator)  # It starts from unit noise in its own units.
    for t, s in zip(timesteps, [*timesteps[1:], None], strict=True):
        gamma_t = model.gammas[t].expand(2)
        eps_hat, nu = model.predict(z, gamma_t)
        x_hat = gaussian.denoised(z.double(), eps_hat.double(), gamma_t)
        if s is None:
            return ((PIXEL_SCALE * x_hat + 1) / 2).clamp(0, 1).numpy()
        gamma_s = model.gammas[s].expand(2)
        mean, small = gaussian.posterior(z.double(), x_hat, gamma_s, gamma_t)
        small = gaussian.over_image(small, mean).log()
        # Their beta in units of the latent s: theirs are relative to a signal that ours has scaled.
        large = forward_std(gamma_s, gamma_t, mean).log()
        weight = nu if nu is not None else float(variance.startswith("fixed_large"))
        std = torch.exp(weight * large + (1 - weight) * small)
        z = (mean + std * torch.randn(2, *SHAPE, generator=generator)).float()
    raise AssertionError


def forward_std(gamma_s, gamma_t, like):
    """Returns the standard deviation of q(z'_t | z'_s) in their units, seen in the units of our z_s."""
    std = gaussian.transition(gamma_s + SHIFT, gamma_t + SHIFT)[1]
    return gaussian.over_image(std * gaussian.sigma(gamma_s) / gaussian.sigma(gamma_s + SHIFT), like)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("n_steps", list(TABLE))
def test_a_pipeline_walks_our_chain(tmp_path, variance, n_steps):
    pipeline = pipeline_of(variance)
    pipeline.save_pretrained(tmp_path / "pipeline")
    model = nelbo.load(tmp_path / "pipeline")
    assert isinstance(model, DDPM)
    expected = ancestral(model, variance, TABLE[n_steps])
    np.testing.assert_allclose(sampled(pipeline, n_steps), expected, rtol=0, atol=2e-4)


def test_the_table_survives_saving_and_loading(tmp_path):
    pipeline = pipeline_of("fixed_large")
    pipeline.save_pretrained(tmp_path / "pipeline")
    again = DDPMPipeline.from_pretrained(tmp_path / "pipeline", low_cpu_mem_usage=False)
    assert isinstance(again, DDPMPipeline)
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler) is type(pipeline.scheduler)
    np.testing.assert_array_equal(sampled(again, 5), sampled(pipeline, 5))
    scheduler = type(pipeline.scheduler).from_pretrained(tmp_path / "pipeline" / "scheduler")
    assert scheduler.config == pickle.loads(pickle.dumps(again.scheduler)).config
    scheduler.set_timesteps(3)
    assert scheduler.timesteps.tolist() == TABLE[3]


def test_the_plain_scheduler_would_add_noise_at_the_end():
    """What the last step's repair is for: an ancestral step of theirs ends in noise when the list ends above 0."""
    plain = DDPMScheduler(num_train_timesteps=N, beta_end=0.15, variance_type="fixed_large")
    ours = timetable_scheduler(plain, TABLE)
    plain.set_timesteps(timesteps=TABLE[5])
    ours.set_timesteps(5)
    z, output = torch.randn(2, *SHAPE), torch.zeros(2, *SHAPE)
    ends = []
    for scheduler in (plain, ours):
        generators = (torch.Generator().manual_seed(seed) for seed in (0, 1))
        ends.append([scheduler.step(output, 4, z, g, return_dict=False)[0] for g in generators])
    assert not torch.equal(*ends[0])
    assert torch.equal(*ends[1])


def test_all_timesteps_are_a_budget_and_given_ones_too():
    scheduler = pipeline_of().scheduler
    scheduler.set_timesteps(N)
    assert scheduler.timesteps.tolist() == list(range(N))[::-1]
    scheduler.set_timesteps(timesteps=[9, 5, 1])
    assert scheduler.timesteps.tolist() == [9, 5, 1]
    assert scheduler.step(torch.zeros(1, *SHAPE), 5, torch.zeros(1, *SHAPE)).prev_sample.shape == (1, *SHAPE)


def test_a_budget_that_is_not_stored_is_refused():
    with pytest.raises(NelboError, match="no timesteps are stored for 4 steps: take 1, 3, 5 or 60"):
        pipeline_of()(num_inference_steps=4)


WRONG = {
    "empty": ({}, "is empty"),
    "another number": ({3: [5, 1]}, "holds 2 timesteps for 3 steps"),
    "ascending": ({2: [1, 5]}, "must descend strictly"),
    "twice the same": ({2: [5, 5]}, "must descend strictly"),
    "past the end": ({2: [60, 5]}, "within 0 .. 59"),
    "negative": ({2: [5, -1]}, "within 0 .. 59"),
    "none": ({0: []}, "must descend"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_timetable_is_refused(name):
    table, says = WRONG[name]
    with pytest.raises(NelboError, match=says):
        timetable_scheduler(DDPMScheduler(num_train_timesteps=N), table)
