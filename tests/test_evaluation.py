"""A measured bound is the plain average over every image, whatever the batches, with an error that is its own."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from nelbo.data import from_array
from nelbo.diffusion.bound import bound
from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.draws import evaluation_draws
from nelbo.diffusion.gaussian import diffuse
from nelbo.diffusion.noise_schedule import Linear
from nelbo.errors import NelboError
from nelbo.evaluation import Estimate, Evaluation, evaluate, standard_error, table
from nelbo.models.config import ModelConfig
from nelbo.nets.closed_form import MixtureDenoiser

from fixtures.networks import random_model, small_unet

SHAPE = (1, 2, 2)


def pixels(n, shape=SHAPE):
    return torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def model(exact_model):
    """Returns a model in which all that depends on an image is computed in float64, image by image."""
    return exact_model(MixtureDenoiser(to_unit(pixels(40))), Linear(-13.3, 5.0), "discretised_gaussian")


@pytest.fixture(scope="module")
def unet():
    return random_model(ModelConfig(image_shape=(1, 4, 4), net=small_unet(dropout=0.0)))


DATA = from_array(pixels(40))


def numbers(evaluation):
    estimates = [Estimate(evaluation.bpd, evaluation.standard_error), *evaluation.terms.values()]
    return torch.tensor([number for estimate in estimates for number in dataclasses.astuple(estimate)])


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("n_steps", [None, 10])
def test_the_batch_size_changes_nothing(model, unet, batch_size, n_steps):
    whole = evaluate(model, DATA, n_steps, batch_size=40, n_passes=2)
    found = evaluate(model, DATA, n_steps, batch_size=batch_size, n_passes=2)
    torch.testing.assert_close(numbers(found), numbers(whole), rtol=1e-9, atol=0)
    data = from_array(pixels(9, unet.image_shape))
    whole = evaluate(unet, data, n_steps, batch_size=9, precision="float32")
    found = evaluate(unet, data, n_steps, batch_size=batch_size, precision="float32")
    torch.testing.assert_close(numbers(found), numbers(whole), rtol=1e-5, atol=0)


@pytest.mark.parametrize("n_steps", [None, 1, 10])
def test_it_is_the_plain_average_of_the_models_bound(model, n_steps):
    result = evaluate(model, DATA, n_steps, seed=3, batch_size=7)
    terms = model.bound(pixels(40), n_steps, seed=3)
    torch.testing.assert_close(result.bpd, terms.bpd.mean().item(), rtol=1e-9, atol=0)
    for name, estimate in result.terms.items():
        mean = getattr(terms, name).mean().item() / (4 * math.log(2))
        torch.testing.assert_close(estimate.bpd, mean, rtol=1e-9, atol=0)


@pytest.mark.parametrize("n_steps", [None, 10])
def test_several_passes_are_averaged(model, n_steps):
    result = evaluate(model, DATA, n_steps, seed=3, n_passes=3)
    draws = [evaluation_draws(range(40), SHAPE, 3, n_passes=3, which=which) for which in range(3)]
    passes = torch.stack([bound(model.given(), pixels(40), draw, n_steps).bpd for draw in draws])
    torch.testing.assert_close(result.bpd, passes.mean().item(), rtol=1e-9, atol=0)
    assert result.n_passes == 3
    phase = draws[0].u * 3 % 1
    torch.testing.assert_close(result.standard_error, standard_error(passes.mean(0), phase), rtol=1e-9, atol=0)


def test_no_image_is_dropped_or_read_twice(model):
    done = []
    five = DATA.select([0, 10, 20, 30, 39])
    result = evaluate(model, five, batch_size=2, progress=done.append)
    assert done == [2, 2, 1]
    assert result.n_images == 5
    all_of_five = model.bound(five.read(range(5))).bpd.mean().item()
    torch.testing.assert_close(result.bpd, all_of_five, rtol=1e-9, atol=0)


@pytest.mark.parametrize("n_steps", [1, 6])
def test_as_many_passes_as_steps_sum_every_step_of_the_chain(model, n_steps):
    """Each with the noise of the pass that visits it."""
    images, gammas, nats = pixels(40), model.noise_schedule.grid(n_steps), torch.zeros(40, dtype=torch.float64)
    visits = torch.zeros(40, n_steps)
    for which in range(n_steps):
        draws = evaluation_draws(range(40), SHAPE, 0, n_steps, which)
        step = (draws.u * n_steps).long()
        eps_hat = model.denoise(diffuse(to_unit(images), draws.eps_t, gammas[step + 1]), gammas[step + 1])
        nats += model.reverse.step_kl(draws.eps_t - eps_hat, gammas[step], gammas[step + 1])
        visits[torch.arange(40), step] += 1
    torch.testing.assert_close(visits, torch.ones(40, n_steps))
    result = evaluate(model, DATA, n_steps, n_passes=n_steps)
    torch.testing.assert_close(result.diffusion.bpd, nats.mean().item() / (4 * math.log(2)), rtol=1e-9, atol=0)


def test_it_is_a_function_of_the_seed(model):
    first, again, other = (evaluate(model, DATA, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.seed == 1
    assert first.bpd != other.bpd
    assert first.prior.bpd == other.prior.bpd


def test_half_precision_does_not_touch_what_is_computed_in_float64(model):
    half, single = (evaluate(model, DATA, precision=precision) for precision in ("bfloat16", "float32"))
    assert (half.precision, single.precision) == ("bfloat16", "float32")
    torch.testing.assert_close(numbers(half), numbers(single), rtol=1e-9, atol=0)


# The standard error


def systematic_sample(seed, n=400):
    """Returns values that depend strongly on an evenly spread phase, and a little on chance."""
    rng = np.random.default_rng(seed)
    phase = (rng.random() + np.arange(n) * 0.6180339887498949) % 1
    values = 10 * np.exp(-20 * (phase - 0.3) ** 2) + 0.3 * rng.standard_normal(n)
    return torch.from_numpy(values), torch.from_numpy(phase)


def test_the_standard_error_is_the_deviation_of_the_mean_over_seeds():
    samples = [systematic_sample(seed) for seed in range(400)]
    truth = torch.stack([values.mean() for values, _ in samples]).std().item()
    claimed = torch.tensor([standard_error(values, phase) for values, phase in samples])
    naive = torch.tensor([values.std().item() / math.sqrt(len(values)) for values, _ in samples])
    assert 0.85 * truth < claimed.mean() < 1.3 * truth
    assert claimed.std() < 0.1 * truth
    assert naive.mean() > 5 * truth


def test_without_dependence_on_the_phase_it_is_the_plain_standard_error():
    values, phase = torch.randn(2, 10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = values.std().item() / 100
    torch.testing.assert_close(standard_error(values, phase), plain, rtol=0.05, atol=0)


def test_a_measured_standard_error_covers_the_spread_over_seeds(model):
    results = [evaluate(model, DATA, seed=seed, n_passes=2) for seed in range(40)]
    spread = torch.tensor([result.bpd for result in results]).std().item()
    claimed = math.sqrt(sum(result.standard_error**2 for result in results) / len(results))
    assert 0.7 * spread < claimed < 3 * spread


def test_one_image_has_no_standard_error(model):
    assert math.isnan(evaluate(model, DATA.select([0])).standard_error)


# Results, and what is refused


def test_a_saved_result_is_the_result(model, tmp_path):
    result = evaluate(model, DATA, 10)
    result.save(tmp_path / "new" / "result.json")
    loaded = json.loads((tmp_path / "new" / "result.json").read_text())
    for name in ("prior", "reconstruction", "diffusion"):
        loaded[name] = Estimate(**loaded[name])
    assert Evaluation(**loaded) == result


def test_a_table_has_a_line_for_each_result(model):
    results = [evaluate(model, DATA, n_steps) for n_steps in (10, None)]
    header, *lines = table(results).splitlines()
    assert header.split() == ["T", "images", "passes", "bpd", "prior", "reconstruction", "diffusion"]
    assert [line.split()[:3] for line in lines] == [["10", "40", "1"], ["inf", "40", "1"]]
    for line, result in zip(lines, results, strict=True):
        assert f"{result.bpd:.4f} ± {result.standard_error:.4f}" in line
        assert len(line) == len(header)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_passes": 0}, "n_passes"),
        ({"batch_size": 0}, "batch_size"),
        ({"n_steps": 0}, "at least 1 step"),
        ({"n_steps": -3}, "at least 1 step"),
        ({"precision": "float16"}, "precision"),
    ],
)
def test_settings_out_of_range_are_refused(model, settings, message):
    with pytest.raises(NelboError, match=message):
        evaluate(model, DATA, **settings)


def test_an_empty_set_is_refused(model):
    with pytest.raises(NelboError, match="no images"):
        evaluate(model, DATA.select([]))


def test_images_of_another_shape_are_refused(model):
    with pytest.raises(NelboError, match=r"mine: .*\(1, 3, 2\).*\(1, 2, 2\)"):
        evaluate(model, from_array(pixels(3, (1, 3, 2)), name="mine"))


def test_damaged_weights_are_refused(exact_model):
    broken = exact_model(MixtureDenoiser(torch.full((1, *SHAPE), math.nan)), Linear(-13.3, 5.0))
    with pytest.raises(NelboError, match="not finite"):
        evaluate(broken, DATA)


def test_the_error_of_one_image_is_null_in_json(model, tmp_path):
    evaluate(model, DATA.select([0])).save(tmp_path / "one.json")
    assert json.loads((tmp_path / "one.json").read_text(), parse_constant=pytest.fail)["standard_error"] is None


@pytest.mark.parametrize("gamma_0", [math.nan, math.inf])
def test_a_damaged_noise_schedule_is_refused(exact_model, gamma_0):
    damaged = exact_model(MixtureDenoiser(to_unit(pixels(4))), Linear(-13.3, 5.0))
    with torch.no_grad():
        damaged.noise_schedule.start.fill_(gamma_0)
    with pytest.raises(NelboError, match="damaged"):
        evaluate(damaged, DATA)


def test_the_standard_error_is_half_the_squares_between_neighbours_in_phase():
    """In the order of the phases the values are 1, 2, 4 and again 1."""
    values, phase = torch.tensor([4.0, 1.0, 2.0]).double(), torch.tensor([0.9, 0.1, 0.5]).double()
    assert standard_error(values, phase) == pytest.approx(math.sqrt((1 + 4 + 9) / 2) / 3, rel=1e-12)
