"""The settings of every noise schedule, the package's and others', are written, read and built as they were given."""

import pytest
import torch

from nelbo.diffusion.noise_schedule import NOISE_SCHEDULES
from nelbo.errors import NelboError
from nelbo.models.config import ModelConfig, parse_model_config
from nelbo.models.noise_schedule_config import settings_of

ARGUMENTS = {
    "table": {"gammas": (-13.3, 0.5, 5.0)},
    "learned": {"gamma_0": -9.0, "n_units": 4},
    "linear": {"gamma_1": 3.5, "learned": True},
    "power": {"exponent": 3.0},
}
# What version 1 wrote, which later versions read and write alike.
WRITTEN = [
    '{"type":"linear","gamma_0":-13.3,"gamma_1":5.0,"learned":false}',
    '{"type":"cosine","gamma_0":-13.3,"gamma_1":5.0}',
    '{"type":"beta_linear","gamma_0":-13.3,"gamma_1":5.0,"beta_0":0.1,"beta_1":20.0}',
    '{"type":"table","gammas":[-3.0,1.0,2.5]}',
    '{"type":"learned","gamma_0":-13.3,"gamma_1":5.0,"n_units":1024,"learned_ends":true}',
    '{"type":"monotone_network","gamma_0":-13.3,"gamma_1":5.0,"n_units":1024}',
]


def with_schedule(text):
    return parse_model_config(f'{{"noise_schedule":{text}}}', "config.json")


@pytest.mark.parametrize("name", NOISE_SCHEDULES)
def test_settings_are_read_as_they_were_written_and_build_their_schedule(name):
    arguments = ARGUMENTS.get(name, {})
    config = ModelConfig(noise_schedule=settings_of(NOISE_SCHEDULES[name])(**arguments))
    read = parse_model_config(config.model_dump_json(), "config.json")
    assert read == config
    assert hash(read) == hash(config)
    torch.manual_seed(0)
    built = read.noise_schedule.build()
    torch.manual_seed(0)
    torch.testing.assert_close(built.grid(7), NOISE_SCHEDULES[name](**arguments).grid(7), rtol=0, atol=0)
    assert type(built) is NOISE_SCHEDULES[name]


@pytest.mark.parametrize("text", WRITTEN)
def test_files_of_version_1_are_read_and_written_unchanged(text):
    assert f'"noise_schedule":{text}' in with_schedule(text).model_dump_json()


@pytest.mark.parametrize("text", WRITTEN[:3] + WRITTEN[4:])
def test_every_argument_has_its_default(text):
    assert with_schedule(text[: text.index(",")] + "}") == with_schedule(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "noise_schedule: .*must be one of linear, cosine, .*power"),
        ('{"type": ["linear"]}', "noise_schedule: .*must be one of linear"),
        ('{"type": "line"}', "noise_schedule: .*must be one of linear"),
        ('{"type": "linear", "gamma_0": "low"}', "noise_schedule.gamma_0: .*valid number"),
        ('{"type": "linear", "gamma_0": NaN}', "noise_schedule.gamma_0: .*finite"),
        ('{"type": "cosine", "learned": true}', "noise_schedule.learned: Extra inputs"),
        ('{"type": "table"}', "noise_schedule.gammas: Field required"),
        ("5", "noise_schedule: "),
    ],
)
def test_settings_of_no_schedule_are_refused_in_one_line(text, message):
    with pytest.raises(NelboError, match=f"^config.json: {message}.*$"):
        with_schedule(text)


@pytest.mark.parametrize("name", ["posterior", "forward"])
def test_a_model_takes_any_kernel_that_needs_nothing(name):
    assert ModelConfig(reverse=name).reverse == name


@pytest.mark.parametrize("name", ["learned-range", "analytic", "spectral", "none"])
def test_a_kernel_that_needs_more_is_refused(name):
    with pytest.raises(NelboError, match=r"reverse: .*there are posterior, forward"):
        parse_model_config(f'{{"reverse": "{name}"}}', "config.json")
