"""Checkpoints of improved-diffusion: what its own code computes, from any topology; one line for any other file."""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch

import nelbo
from nelbo import evaluation
from nelbo.cli.main import main
from nelbo.data.arrays import from_array
from nelbo.diffusion import bound, gaussian
from nelbo.diffusion.bound import Draws
from nelbo.diffusion.decoder import discretised_gaussian, to_unit
from nelbo.errors import NelboError
from nelbo.interop.betas import gammas_of, named_betas
from nelbo.interop.ddpm import DDPM
from nelbo.interop.improved_diffusion import Given, import_improved_diffusion
from nelbo.interop.improved_diffusion_topology import topology
from nelbo.interop.units import DEFAULT_UNITS
from nelbo.models import interface
from nelbo.time_schedule import gather
from nelbo.time_schedule.schedule import plain_schedule

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "improved_diffusion.npz")
GIVEN = {
    "simple": Given(steps=50, size=8, heads=1, rescale_timesteps=False),
    "xstart": Given(steps=20, schedule="cosine", size=8, heads=1, sigma_small=True, predict_xstart=True),
    "hybrid": Given(steps=12, schedule="cosine", size=8, heads=4, heads_up=2),
}
TOPOLOGY = {  # multipliers, blocks, attention, modulated; inputs, outputs, classes
    "simple": ((1, 2), 1, (2,), False, 1, 1, 0),
    "xstart": ((1,), 1, (), True, 1, 1, 0),
    "hybrid": ((1, 1, 2), 2, (2, 4), True, 3, 6, 5),
}
CASES = list(GIVEN)


def weight(name, shape):
    """Returns a weight that is a function of its name; tests/golden was computed with the same."""
    rng = np.random.default_rng(crc32(name.encode()))
    noise = (12**0.5 * (rng.random(shape) - 0.5)).astype("f4")
    if len(shape) > 1:
        return torch.from_numpy(noise / np.float32(np.prod(shape[1:]) ** 0.5))
    return torch.from_numpy((1 if name.endswith("weight") else 0) + np.float32(0.2) * noise)


def state_dict(case):
    shapes = json.loads(GOLDEN[f"{case}_shapes"].item())
    return {name: weight(name, tuple(shape)) for name, shape in shapes.items()}


def golden(case, *names):
    return (torch.from_numpy(GOLDEN[f"{case}_{name}"]) for name in names)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Returns the model of a case, written as a checkpoint, imported and loaded."""

    @cache
    def load(case):
        folder = tmp_path_factory.mktemp(case)
        torch.save(state_dict(case), folder / "ema.pt")
        import_improved_diffusion(folder / "ema.pt", folder / "model", GIVEN[case])
        return nelbo.load(folder / "model")

    return load


def diffused(model, images, noise):
    """Returns the latents of all timesteps, in our units, and their gammas."""
    x, levels = to_unit(images), model.gammas[:, None].expand(-1, len(images))
    batches = [gaussian.diffuse(x, eps, gamma) for eps, gamma in zip(noise, levels, strict=True)]
    return torch.stack(batches)


@pytest.mark.parametrize("case", CASES)
def test_the_network_is_theirs(imported, case):
    model = imported(case)
    images, noise, labels, outputs = golden(case, "images", "noise", "labels", "outputs")
    x = images.float() / 127.5 - 1
    for which, t in enumerate((0, GIVEN[case].steps // 2)):
        gamma = (model.gammas[t] + DEFAULT_UNITS.gamma_shift).expand(len(x))
        z = gaussian.diffuse(x, noise[t], gamma)
        with torch.no_grad():
            output = model.net(z, torch.full((len(x),), t), labels if model.n_classes else None)
        torch.testing.assert_close(output, outputs[which], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("case", CASES)
def test_each_term_of_the_bound_is_theirs(imported, case):
    """Theirs in their units, ours in ours, from the same images and noise."""
    model = imported(case)
    images, noise, labels, vb = golden(case, "images", "noise", "labels", "vb")
    labels = labels if model.n_classes else None
    zs = diffused(model, images, noise)
    for t in range(1, len(zs)):
        gamma_s, gamma_t = (model.gammas[i].expand(len(images)) for i in (t - 1, t))
        with torch.no_grad():
            eps_hat, nu = model.predict(zs[t], gamma_t, labels)
        kl = pair_kl(model, zs[t], to_unit(images), eps_hat, nu, gamma_s, gamma_t)
        torch.testing.assert_close(kl / math.log(2), vb[t].double(), rtol=2e-3, atol=1e-6)


def pair_kl(model, z_t, x, eps_hat, nu, gamma_s, gamma_t):
    """Returns KL(q(z_s | z_t, x) || p(z_s | z_t)) in nats per dimension, with the kernel the model was trained with."""
    mean_q, std_q = gaussian.posterior(z_t.double(), x.double(), gamma_s, gamma_t)
    x_hat = gaussian.denoised(z_t.double(), eps_hat.double(), gamma_t)
    mean_p, _ = gaussian.posterior(z_t.double(), x_hat, gamma_s, gamma_t)
    small = gaussian.over_image(2 * std_q.log(), z_t.double())
    large = gaussian.over_image(2 * gaussian.transition(gamma_s, gamma_t)[1].log(), z_t.double())
    if nu is None:
        log_variance = {"posterior": small, "forward": large}[model.reverse_kernel]
    else:
        log_variance = nu * large + (1 - nu) * small
    apart = (mean_q - mean_p).square() * torch.exp(-log_variance)
    return (0.5 * (log_variance - small - 1 + torch.exp(small - log_variance) + apart)).flatten(1).mean(1)


@pytest.mark.parametrize("case", ["simple", "hybrid"])
def test_the_exit_and_the_prior_are_theirs(imported, case):
    """Their normal distribution function is an approximation, good but in its tails, where `xstart` lies."""
    model = imported(case)
    images, noise, labels, vb, prior = golden(case, "images", "noise", "labels", "vb", "prior")
    gamma = model.gammas[0].expand(len(images))
    with torch.no_grad():
        z = gaussian.diffuse(to_unit(images), noise[0], gamma)
        eps_hat, nu = model.predict(z, gamma, labels if model.n_classes else None)
    x_hat = gaussian.denoised(z.double(), eps_hat.double(), gamma)
    std = torch.tensor(model.exit_std, dtype=torch.float64)
    if nu is not None:
        std = torch.exp(nu * math.log(model.exit_std_large) + (1 - nu) * std.log())
    length = -discretised_gaussian(to_unit(images).double(), x_hat, std).clamp(min=math.log(1e-12))
    torch.testing.assert_close(length.flatten(1).mean(1) / math.log(2), vb[0].double(), rtol=5e-3, atol=0)
    kl = nelbo.diffusion.bound.prior_kl(to_unit(images), model.gammas[-1]) / (model.n_dims * math.log(2))
    torch.testing.assert_close(kl, prior.double(), rtol=0.02, atol=1e-7)


@pytest.mark.parametrize("case", ["simple", "hybrid"])
def test_evaluation_meets_their_total_and_terms(imported, case, monkeypatch):
    """Each step, the last one and the prior as `nelbo.evaluate` measures them, with the noise of the golden file."""
    model = imported(case)
    images, noise, labels, vb, prior = golden(case, "images", "noise", "labels", "vb", "prior")
    data = from_array(images, labels=labels.numpy() if model.n_classes else None)
    clamp = math.log(1e-12)  # Below which their logarithm does not go.
    monkeypatch.setattr(bound, "discretised_gaussian", lambda *a: discretised_gaussian(*a).clamp(min=clamp))

    def measured(t, *levels):
        monkeypatch.setattr(evaluation, "chain_draws", lambda *_: (noise[t], noise[t]))
        return nelbo.evaluate(model, data, replace(whole, gammas=model.gammas[list(levels)]), precision="float32")

    whole = plain_schedule(model, len(model.gammas))
    steps = [measured(t, t - 1, t).diffusion.bpd for t in range(1, len(noise))]
    last, first = measured(0, 0).reconstruction.bpd, measured(0, len(noise) - 1).prior.bpd
    assert steps == pytest.approx(vb[1:].double().mean(1).tolist(), rel=2e-3, abs=1e-6)
    assert last == pytest.approx(vb[0].double().mean().item(), rel=5e-3)
    assert first == pytest.approx(prior.double().mean().item(), rel=0.02, abs=1e-7)
    assert last + sum(steps) + first == pytest.approx((vb.double().sum(0) + prior).mean().item(), rel=3e-3)
    monkeypatch.setattr(gather, "chain_draws", lambda *_: (noise[0], noise[0]))
    table = nelbo.error_table(model, data, precision="float32")
    found = table.decoder[0, 0].item() / len(images) / model.n_dims / math.log(2)
    assert found == pytest.approx(last, rel=1e-5)
    monkeypatch.setattr(interface, "evaluation_draws", lambda *_: Draws(noise[0], torch.zeros(2).double(), noise[0]))
    one = model.bound(images, len(noise), labels=labels if model.n_classes else None)
    assert bound.to_bpd(one.reconstruction, model.n_dims).mean().item() == pytest.approx(last, rel=1e-5)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_noise_levels_are_theirs(name):
    n_steps = {"linear": 1000, "cosine": 4000}[name]
    timesteps, betas, log_variance, sigma = golden(name, "timesteps", "betas", "log_posterior_variance", "sigma")
    ours = named_betas(name, n_steps)
    gammas = gammas_of(ours)
    torch.testing.assert_close(ours[timesteps], betas, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.exp(gammas[timesteps] / 2), sigma, rtol=1e-9, atol=0)
    after = timesteps.clamp(min=1)
    std = torch.sqrt(-torch.expm1(gammas[after - 1] - gammas[after])) * gaussian.sigma(gammas[after - 1])
    torch.testing.assert_close(2 * std.log(), log_variance, rtol=1e-9, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_weights_tell_the_topology(case):
    found, *rest = topology(state_dict(case))
    told = (found.multipliers, found.n_blocks, found.attention, found.modulated, *rest)
    assert (found.n_channels, told) == (32, TOPOLOGY[case])


def test_the_command_writes_a_folder_that_loads(tmp_path, capsys):
    torch.save(state_dict("xstart"), tmp_path / "ema.pt")
    numbers = ["--steps", "20", "--schedule", "cosine", "--size", "8", "--heads", "1"]
    options = [*numbers, "--sigma-small", "--predict-xstart"]
    main(["import", "improved-diffusion", str(tmp_path / "ema.pt"), str(tmp_path / "model"), *options])
    assert capsys.readouterr().out == f"model: {tmp_path / 'model'}\n"
    model = nelbo.load(tmp_path / "model")
    assert isinstance(model, DDPM)
    assert (model.image_shape, len(model.gammas), model.reverse_kernel) == ((1, 8, 8), 20, "posterior")
    assert "ema.pt" in (tmp_path / "model" / "README.md").read_text()


def without(name):
    def change(weights):
        del weights[name]

    return change


def replaced(name, value):
    def change(weights):
        weights[name] = value

    return change


WRONG = {  # What is changed in the weights of `hybrid`, what is given otherwise, what the message must say.
    "a missing weight": (without("middle_block.1.qkv.bias"), {}, "lacks middle_block.1.qkv.bias"),
    "no first layer": (without("input_blocks.0.0.weight"), {}, "lacks input_blocks.0.0.weight"),
    "another weight": (replaced("extra", torch.ones(2)), {}, "unexpectedly, extra"),
    "another shape": (replaced("out.0.weight", torch.ones(3)), {}, "out.0.weight has shape (3,), expected (32,)"),
    "too few axes": (replaced("out.2.weight", torch.ones(3)), {}, "out.2.weight has shape (3,), expected 4 axes"),
    "odd outputs": (replaced("out.2.weight", torch.ones(5, 32, 3, 3)), {}, "reads 3 channels and writes 5"),
    "a hole": (without("input_blocks.5.0.in_layers.2.weight"), {}, "as many residual blocks each"),
    "not a number": (replaced("out.0.bias", torch.full((32,), math.nan)), {}, "out.0.bias is not finite"),
    "no tensor": (replaced("step", 3), {}, "no plain state dict"),
    "a small sigma": (None, {"sigma_small": True}, "learned its variances"),
    "an odd size": (None, {"size": 10}, "multiple"),
    "no size": (None, {"size": 0}, "image_shape"),
    "heads that do not divide": (None, {"heads": 5}, "the heads 5 and 2 must divide"),
    "one step": (None, {"steps": 1}, "n_steps"),
    "too few linear steps": (None, {"steps": 15, "schedule": "linear"}, "betas must lie between 0 and 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, name):
    change, given, says = WRONG[name]
    weights = state_dict("hybrid")
    if change:
        change(weights)
    path = tmp_path / "ema.pt"
    torch.save(weights, path)
    with pytest.raises(NelboError) as caught:
        import_improved_diffusion(path, tmp_path / "model", GIVEN["hybrid"].model_copy(update=given))
    message = str(caught.value)
    assert says in message
    assert message.startswith(str(path))
    assert len(message.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]


FILES = {"empty": b"", "random": np.random.default_rng(0).bytes(1000), "text": b"hello", "a pickle": b"\x80\x04N."}


@pytest.mark.parametrize("name", FILES)
def test_other_files_are_refused_in_one_line(tmp_path, name):
    path = tmp_path / "ema.pt"
    path.write_bytes(FILES[name])
    with pytest.raises(NelboError, match="improved-diffusion") as caught:
        import_improved_diffusion(path, tmp_path / "model", GIVEN["hybrid"])
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NelboError, match="cannot be read: No such file"):
        import_improved_diffusion(tmp_path / "absent.pt", tmp_path / "model", GIVEN["hybrid"])


def test_a_damaged_folder_is_named(tmp_path):
    torch.save(state_dict("xstart"), tmp_path / "ema.pt")
    import_improved_diffusion(tmp_path / "ema.pt", tmp_path / "model", GIVEN["xstart"])
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"n_steps": 20', '"n_steps": 1'))
    with pytest.raises(NelboError, match=r"config\.json: n_steps"):
        nelbo.load(tmp_path / "model")
