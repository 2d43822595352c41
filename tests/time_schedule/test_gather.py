"""Gathering: one call per image and level, and after an interruption it resumes where it stopped."""

import itertools
import signal
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from nelbo.data import from_array
from nelbo.errors import NelboError
from nelbo.models.fingerprint import images_digest
from nelbo.time_schedule import gather as gathering
from nelbo.time_schedule.empty_table import MAX_EXIT_LEVELS
from nelbo.time_schedule.error_table import load_table, save_table
from nelbo.time_schedule.gather import SITTING, error_table

from fixtures.error_tables import KINDS, assert_equal, assert_same, gather, kinds


@kinds
def test_the_network_sees_every_image_once_at_every_level(make_model, make_pixels, kind):
    model = make_model(*kind)
    table = error_table(model, make_pixels(SITTING + 3), n_gammas=10)
    n_pilot = 0 if kind[0] is None else 4 * 11
    assert model.n_images_seen == (SITTING + 3) * 10 + n_pilot
    assert len(table.gammas) == 10
    assert table.n_images.tolist() == [SITTING + 3] * 10


def test_levels_are_even_in_gamma_or_some_of_the_models_own(make_model, make_pixels):
    table = gather(make_model, make_pixels)
    torch.testing.assert_close(table.gammas, -13.3 + 1.83 * torch.arange(1, 11, dtype=torch.float64))
    assert table.subject.gamma_0 == pytest.approx(-13.3)
    ddpm, whole = (gather(make_model, make_pixels, kind=KINDS[1], n_gammas=n) for n in (10, 12))
    assert torch.equal(ddpm.gammas, make_model(12).gammas[ddpm.timesteps])
    assert ddpm.timestep(0) == 0
    assert ddpm.timestep(9) == 11
    assert ddpm.subject.gamma_0 is None
    assert whole.timesteps is None
    assert torch.equal(whole.gammas, make_model(12).gammas)
    assert torch.equal(whole.error[ddpm.timesteps], ddpm.error)


def test_by_default_a_discrete_model_is_measured_at_250_of_its_levels(make_model, make_pixels):
    model = make_model(300, "forward")
    table = error_table(model, make_pixels(1), precision="float32", exit_kinds=())
    assert len(table.gammas) == 250
    assert model.n_images_seen == 250 + 32


def test_a_table_of_all_levels_goes_on_by_default(make_model, make_pixels):
    """As those of earlier versions are."""
    model = make_model(300, "forward")
    settings = {"precision": "float32", "exit_kinds": ()}
    start = error_table(model, make_pixels(1), n_gammas=300, **settings)
    model.n_images_seen = 0
    assert_equal(error_table(model, make_pixels(1), start=start, **settings), start)
    assert model.n_images_seen == 0


@kinds
def test_the_batch_size_changes_nothing(make_model, make_pixels, kind):
    whole, single = (gather(make_model, make_pixels, kind=kind, batch_size=size) for size in (32, 1))
    assert_same(whole, single)


def test_exits_are_measured_at_no_more_levels_than_needed(make_model, make_pixels):
    table = gather(make_model, make_pixels, 2, n_gammas=300)
    assert 100 <= len(table.exit_levels) <= MAX_EXIT_LEVELS
    assert all(len(exits) == len(table.exit_levels) for exits in table.exits.values())
    without = gather(make_model, make_pixels, 2, exit_kinds=())
    assert without.exits == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_gammas": 0}, "at least 1 gamma"),
        ({"seed": -1}, "seed"),
        ({"batch_size": 0}, "batch_size"),
        ({"precision": "int3"}, "precision"),
        ({"exit_kinds": ("door",)}, "no exit 'door'"),
    ],
)
def test_settings_out_of_range_are_refused(make_model, make_pixels, settings, message):
    with pytest.raises(NelboError, match=message):
        gather(make_model, make_pixels, **settings)


def test_images_of_another_shape_and_networks_that_fail_are_refused(make_model, make_pixels):
    with pytest.raises(NelboError, match="shape"):
        error_table(make_model(), make_pixels(2, shape=(3, 8, 8)), n_gammas=2)
    model = make_model()
    model.denoise = lambda z, gamma: z * float("nan")
    with pytest.raises(NelboError, match="not finite"):
        error_table(model, make_pixels(2), n_gammas=2)


# Interruptions


@kinds
def test_an_interrupted_table_goes_on(make_model, make_pixels, kind, tmp_path):
    """After any number of levels, from its file; nothing is computed twice."""
    whole = gather(make_model, make_pixels, SITTING + 2, kind)

    class Stop(Exception):
        pass

    for after in (1, 5 * SITTING, (SITTING + 2) * 10 - 1):

        def interrupt(table, progress, after=after):
            if progress.done >= after:
                save_table(table, tmp_path / "table.safetensors", torch.float64)
                raise Stop

        model = make_model(*kind)
        with pytest.raises(Stop):
            error_table(model, make_pixels(SITTING + 2), n_gammas=10, precision="float32", progress=interrupt)
        start = load_table(tmp_path / "table.safetensors")
        n_images = start.n_images.clone()
        finished = error_table(model, make_pixels(SITTING + 2), n_gammas=10, precision="float32", start=start)
        assert_same(finished, whole)
        assert torch.equal(start.n_images, n_images)  # Going on leaves the start as it was.
        n_pilot = 0 if kind[0] is None else 4 * 11
        assert model.n_images_seen == (SITTING + 2) * len(whole.gammas) + n_pilot


def call_at(function, number, first):
    """Returns a function that calls ``first`` before it is called for the given time, counting from 0."""
    numbers = itertools.count()

    def call(*arguments):
        if next(numbers) == number:
            first()
        return function(*arguments)

    return call


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


SMALL_KINDS = [(None, "posterior"), (3, "learned-range")]
CALLS = [("_sums", 9), ("_sums", 12), ("_block_products", 4), ("moments", 4), ("exit_loss", 4), ("fit_exit", 2)]


@pytest.mark.parametrize("kind", SMALL_KINDS, ids=["ours", "discrete"])
def test_ctrl_c_leaves_whole_levels(make_model, make_pixels, kind, monkeypatch):
    """Before any part of a level's sums; what the caller holds goes on as if nothing had happened, bit for bit."""
    monkeypatch.setattr(gathering, "SITTING", 2)
    arguments, settings = (make_model, make_pixels, 3, kind), {"n_gammas": 3, "exit_kinds": ("channels",)}
    whole = gather(*arguments, **settings)
    n_interrupted = 0
    for part, number in CALLS:
        latest = [None]
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(gathering, part, call_at(getattr(gathering, part), number, ctrl_c))
            gather(*arguments, progress=lambda table, _, latest=latest: latest.append(table), **settings)
            continue
        n_interrupted += 1
        assert_equal(gather(*arguments, start=latest[-1], **settings), whole)
    assert n_interrupted >= 4


def test_going_on_with_another_table_is_refused(make_model, make_pixels):
    start = gather(make_model, make_pixels, 3)
    for settings in ({"n_gammas": 11}, {"seed": 1}, {"precision": "bfloat16"}):
        with pytest.raises(NelboError, match="remove it to start anew"):
            gather(make_model, make_pixels, 3, start=start, **settings)


def test_a_table_goes_on_with_its_own_images_alone(make_model, make_pixels, tmp_path):
    """In their order and their number; a finished one as well, and one from an older file never."""
    model, images = make_model(), make_pixels(4)
    settings = {"n_gammas": 2, "precision": "float32", "exit_kinds": ()}
    save_table(error_table(model, images, **settings), tmp_path / "table.safetensors")
    start = load_table(tmp_path / "table.safetensors")
    assert_equal(error_table(model, images, **settings, start=start), start)
    for others in (make_pixels(4, seed=1), images.flip(0), images[:3], torch.cat([images, images])):
        with pytest.raises(NelboError, match=r"other images, or of more or fewer: remove it .* --out, or .* --table"):
            error_table(model, others, **settings, start=start)
    save_table(replace(start, images=None), tmp_path / "older.safetensors")
    older = load_table(tmp_path / "older.safetensors")
    assert torch.equal(older.mean_square, start.mean_square)
    with pytest.raises(NelboError, match="does not say of which images"):
        error_table(model, images, **settings, start=older)


def test_images_of_other_classes_are_other_images(make_pixels):
    images, labels = from_array(make_pixels(3)), torch.tensor([0, 1, 2])
    assert images_digest(images, labels) == images_digest(images, labels.clone())
    assert len({images_digest(images), images_digest(images, labels), images_digest(images, labels.flip(0))}) == 3
