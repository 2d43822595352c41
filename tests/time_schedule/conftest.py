"""A model of every kind with its images and their error table."""

import pytest

from nelbo.time_schedule.gather import error_table

from fixtures.schedule_cases import MODELS, N_IMAGES, N_LEVELS


@pytest.fixture
def gathered(make_model, make_pixels):
    """Returns a model, its images and their table: ``gathered("vdm")`` or ``gathered("ddpm")``."""

    def run(model_name):
        model, images = make_model(*MODELS[model_name]), make_pixels(N_IMAGES)
        return model, images, error_table(model, make_pixels(N_IMAGES), n_gammas=N_LEVELS, precision="float32")

    return run
