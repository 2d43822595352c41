"""The compiled loops against the formulas of the reference, where their branches are."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from nelbo.integer.arithmetic import EXP_LENGTH, HIGH_INDEX, LOW_INDEX, TABLE_BITS
from nelbo.integer.operations.attention import fall_into
from nelbo.integer.operations.norm_loops import norm_into
from nelbo.integer.tables import make_tables, silu_of

TABLES = make_tables()
SILU = TABLES["silu"].numpy().astype(np.float32)
BORDERS = [LOW_INDEX, LOW_INDEX + 1, -1, 0, 1, HIGH_INDEX - 1, HIGH_INDEX, HIGH_INDEX + 1, 2 * HIGH_INDEX]


@given(st.lists(st.integers(LOW_INDEX, 2**20), max_size=30))
def test_silu_is_that_of_the_table_and_the_identity_above_it(values):
    """A gain of zero leaves the offset alone, which stands for any value of a norm here."""
    y = np.array(BORDERS + values, np.float64)
    x, zero, out = np.ones((1, 2, len(y)), np.float32), np.zeros_like(y), np.zeros((2, 1, 3, 4, len(y)), np.int16)
    limits, digits = (float(LOW_INDEX), 2.0**21), (0, 2, 12)
    norm_into(x, zero, zero, y, 1, 1.0, 2.0**20, 20, *limits, True, SILU, *digits, out, 1, 0, 1)
    expected = silu_of(torch.from_numpy(y), TABLES["silu"]).float().numpy()
    found = out[0] + 2.0**12 * out[1]
    assert (found[0, 1, 1:3] == expected).all()
    assert np.count_nonzero(found) <= 2 * np.count_nonzero(expected)  # The border stays zero.
    assert TABLE_BITS + 2 == 12  # What the identity is multiplied by.


@given(st.integers(0, 2**32), st.integers(1, 2**16), st.integers(0, 30))
def test_attention_weights_are_those_of_the_reference(seed, multiplier, shift):
    logits = torch.randint(-(2**30), 2**30, (6, 9), generator=torch.Generator().manual_seed(seed)).double()
    logits[0] = logits[0, 0]
    below = (logits.amax(-1, keepdim=True) - logits) * float(multiplier)
    expected = TABLES["exp"][(below * 0.5**shift).floor().clamp(max=EXP_LENGTH).long()].double()
    table, found = TABLES["exp"].double().numpy(), logits.clone()
    fall_into(found.numpy(), float(multiplier), 0.5**shift, table, 0, 4)
    assert torch.equal(found[:4], expected[:4])
    assert torch.equal(found[4:], logits[4:])
