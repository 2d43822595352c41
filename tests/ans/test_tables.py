"""The integer tables: what they hold, what they cost against the exact distributions, and that damage is seen."""

import numpy as np
import pytest
import torch

from nelbo.ans.tables import (
    build_tables,
    cumulative_integers,
    mean_integers,
    rate_integers,
    sharpness_integers,
)
from nelbo.errors import NelboError


def test_tables_hold_the_functions(tables):
    t = torch.arange(3073, dtype=torch.float64) / 256 - 6
    exact = torch.special.ndtr(t).numpy() * 2**30
    np.testing.assert_allclose(tables.cdf[1:-1], exact[1:-1], atol=0.501)
    assert (tables.cdf[0], tables.cdf[-1]) == (0, 2**30)
    np.testing.assert_allclose(tables.exp, np.exp(-np.arange(3073) / 128) * 2**30, atol=0.501)


def test_tables_are_pinned():
    assert build_tables().digest() == "12dce892bab45b11d1ccd650c64b7ce298bed155784d7283fd1f12674f2bca68"


def test_no_table_depends_on_the_last_digits():
    t = torch.arange(1, 3072, dtype=torch.float64) / 256 - 6
    for exact in (torch.special.ndtr(t).numpy(), np.exp(-np.arange(3073) / 128)):
        fraction = np.modf(exact * 2**30)[0]
        assert np.abs(fraction - 0.5).min() > 1e-6


def test_parameters_are_rounded():
    assert mean_integers(np.array([0.5, -1.25, 2**-17])).tolist() == [2**15, -5 * 2**14, 0]
    assert rate_integers(np.array([1.0, 2.0, 1 / 256])).tolist() == [2**24, 2**23, 2**32]
    assert sharpness_integers(np.array([1.0, 0.5])).tolist() == [2**31, 2**33]


@pytest.mark.parametrize("std", [0.0, -1.0, np.nan, np.inf, 1e-3, 1e4])
def test_parameters_outside_the_tables_are_refused(std):
    with np.errstate(divide="ignore"):
        for integers in (rate_integers, sharpness_integers):
            with pytest.raises(NelboError, match="standard deviation"):
                integers(np.array([1.0, std]))


def test_cumulative_rows_follow_the_probabilities():
    probabilities = np.random.default_rng(0).dirichlet(np.full(200, 0.05), size=20)
    cumulative = cumulative_integers(probabilities).astype(np.int64)
    frequencies = np.diff(cumulative, axis=1)
    assert frequencies.min() >= 1
    assert np.all(frequencies.sum(axis=1) == 2**24)
    np.testing.assert_allclose(frequencies / 2**24, probabilities, atol=202 / 2**24)
