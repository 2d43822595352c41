"""Timesteps, sigmas and JSON of a chain: there and back, and in the units of who takes them."""

import json

import pytest
import torch

import nelbo
from nelbo.errors import NelboError
from nelbo.interop.export import load_timesteps, save_timesteps, sigmas, timesteps, use_timesteps

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
MODEL = nelbo.from_callable(lambda x, t: x, BETAS, (1, 4, 4))
TABLE = {2: [999, 3], 4: [999, 500, 20, 0]}


def test_gammas_become_timesteps():
    for chain in TABLE.values():
        assert timesteps(MODEL, MODEL.gammas[chain]) == chain
        assert timesteps(MODEL, MODEL.gammas[chain].flip(0).tolist()) == chain


def test_gammas_that_are_no_chain_are_refused():
    with pytest.raises(NelboError, match="no gammas"):
        timesteps(MODEL, [])
    with pytest.raises(NelboError, match="none of them"):
        timesteps(MODEL, [50.0])
    with pytest.raises(NelboError, match="descend strictly"):
        timesteps(MODEL, MODEL.gammas[[3, 3]])


def test_sigmas_are_those_of_k_diffusion():
    """Its DiscreteSchedule: sigma = sqrt((1 - bar) / bar), descending to an appended 0."""
    bar = (1 - BETAS).cumprod(0)[TABLE[4]]
    expected = torch.cat([((1 - bar) / bar).sqrt(), torch.zeros(1)])
    torch.testing.assert_close(sigmas(MODEL, TABLE[4]), expected, rtol=1e-9, atol=0)


def test_use_timesteps_are_kept_by_a_respaced_chain():
    """SpacedDiffusion's betas, 1 - bar_t / bar_s over the retained steps, give back the noise of those steps."""
    kept = sorted(use_timesteps(TABLE[4]))
    bar = (1 - BETAS).cumprod(0)[kept]
    spaced = 1 - bar / torch.cat([torch.ones(1), bar[:-1]])
    respaced = nelbo.from_callable(lambda x, t: x, spaced, (1, 4, 4))
    assert respaced.gammas is not None
    torch.testing.assert_close(respaced.gammas, MODEL.gammas[kept], rtol=1e-9, atol=1e-9)


def test_a_file_gives_back_the_timetable(tmp_path):
    path = tmp_path / "timesteps.json"
    save_timesteps(path, MODEL, TABLE)
    assert load_timesteps(path) == TABLE
    content = json.loads(path.read_text())
    assert content["num_train_timesteps"] == 1000
    assert content["sigmas"]["2"] == sigmas(MODEL, TABLE[2]).tolist()


WRONG = {
    "missing": (None, "cannot be read: No such file"),
    "no JSON": ("{", "is no file of timesteps"),
    "another file": ('{"a": 1}', "is no file of timesteps"),
    "a list": ("[]", "is no file of timesteps"),
    "another table": (
        '{"format": "nelbo timesteps", "version": 1, "num_train_timesteps": 10, "timesteps": {"2": [1, 5]}}',
        "must descend strictly",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_none_is_refused(tmp_path, name):
    text, says = WRONG[name]
    path = tmp_path / "timesteps.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(NelboError, match=says) as caught:
        load_timesteps(path)
    assert str(caught.value).startswith(str(path))
