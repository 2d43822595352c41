"""Digits, rows of weights, tables and levels: what they stand for, how far they are off, and that sums are exact."""

import math
from decimal import Decimal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nelbo.diffusion.gaussian import alpha
from nelbo.errors import NelboError
from nelbo.integer import arithmetic
from nelbo.integer.arithmetic import (
    EXACT_FLOAT32,
    EXACT_FLOAT64,
    FLOAT32,
    INT16,
    Limbs,
    best_limbs,
    fewest_limbs,
    join,
    split,
)
from nelbo.integer.linear import Bound, largest_sum, quantise_linear, row_norm
from nelbo.integer.noise_level import exact_alpha, fixed_alpha
from nelbo.integer.tables import make_tables, silu_of
from nelbo.integer.tensors import by_owner
from nelbo.integer.translate import translate

splits = st.builds(Limbs, st.integers(1, 4), st.integers(2, 9))


@given(splits, st.integers(0, 2**22), st.integers(0, 2**32))
def test_digits_stand_for_their_integer_and_are_small(limbs, limit, seed):
    x = torch.randint(-limit, limit + 1, (64,), generator=torch.Generator().manual_seed(seed)).float()
    x[:2] = torch.tensor([limit, -limit])
    digits = split(x, limbs)
    assert torch.equal(join(digits, limbs), x.double())
    assert max(float(digit.abs().max()) for digit in digits) <= limbs.largest(limit)


@given(st.integers(1, 2**20), st.integers(1, 2**18), st.sampled_from([(FLOAT32, 2**24, 2**24), (INT16, 2**15, 2**31)]))
def test_fewest_digits_keep_sums_exact(limit, norm, arithmetic):
    arithmetic, digit, total = arithmetic

    def fits(limbs):
        return limbs.largest(limit) < digit and limbs.largest(limit) * norm < total

    limbs = fewest_limbs(limit, norm, arithmetic)
    if limbs is not None:
        assert fits(limbs)
        assert limbs.count == 1 or not fits(best_limbs(limit, limbs.count - 1))


@given(st.integers(0, 2**32), st.integers(2**12, 2**16), st.integers(0, 1000))
def test_a_one_sided_bound_holds_for_the_worst_inputs(seed, largest, low):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn((5, 40), generator=generator, dtype=torch.float64)
    bounds = [Bound(2**20), Bound(largest, low / 1000)]
    layer = quantise_linear(rows, None, (12, 14), 1000, bounds)
    worst = max(
        float((layer.weight.double() * torch.where(layer.weight * sign > 0, 1000.0, -float(low))).sum(1).abs().max())
        for sign in (1, -1)
    )
    assert worst == largest_sum(layer.weight, low, 1000) <= 1000 * largest
    assert largest_sum(layer.weight, low, 1000) > 900 * largest  # And weights are as fine as they may be.


@given(st.integers(0, 2**32), st.integers(2, 4), st.sampled_from([2**12, 2**15, 2**18]))
def test_a_linear_layer_is_near_the_float_one_and_proved_exact(seed, count, limit):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn((5, 40), generator=generator, dtype=torch.float64) * 10 ** torch.randn(
        (5, 1), generator=generator, dtype=torch.float64
    )
    bias = torch.randn(5, generator=generator, dtype=torch.float64)
    limbs = best_limbs(limit, count)
    layer = quantise_linear(weight, bias, (12, 14), limit, [Bound((EXACT_FLOAT32 - 1) // limbs.largest(limit))])
    worst = limit * layer.weight.double().sign()  # The inputs that drive each row furthest.
    totals = (layer.weight.double() * worst).sum(1)
    assert (totals * layer.multiplier + layer.offset).abs().max() < EXACT_FLOAT64
    assert row_norm(layer.weight) * limbs.largest(limit) < EXACT_FLOAT32
    x = torch.randint(-limit, limit + 1, (40,), generator=generator).double()
    y = ((layer.weight.double() @ x * layer.multiplier + layer.offset) * 0.5**layer.shift).floor() / 2**14
    step = layer.multiplier * 2.0 ** (12 - 14 - layer.shift)
    slack = 0.5 * step * x.abs().sum() / 2**12 + 2.0**-14
    assert ((y - weight @ x / 2**12 - bias).abs() <= slack).all()


def test_a_layer_that_cannot_be_exact_is_refused():
    with pytest.raises(NelboError, match="it sums 4096 products"):
        quantise_linear(torch.ones(1, 4096), None, (12, 12), 2**20, [Bound(2000)])
    with pytest.raises(NelboError, match=r"it may reach .* 2\^53"):
        quantise_linear(torch.ones(1, 9), torch.tensor([1e9]), (12, 12), 2**20, [Bound(2**20)])
    with pytest.raises(NelboError, match="its weights are not finite"):
        quantise_linear(torch.tensor([[math.nan]]), None, (12, 12), 2**10, [Bound(2**10)])


def test_tables_are_their_functions_to_half_a_unit():
    tables = make_tables()
    y = torch.arange(-(20 << 10), 60 << 10, 7).double()
    error = silu_of(y, tables["silu"]) / 2**12 - torch.nn.functional.silu(y / 2**10)
    assert error.abs().max() <= 2.0**-13 + 20 * math.exp(-16)
    i = torch.arange(2**16).double()
    assert (tables["sine"] / 2**14 - torch.sin(2 * math.pi * i / 2**16)).abs().max() <= 2.0**-15 + 1e-12
    assert tables["exp"][0] == 2**15
    assert tables["exp"][-1] == 0


@pytest.mark.parametrize("gamma", [-30.0, -13.3, -1.0, 0.0, 2.5, 5.0, 20.0])
def test_alpha_is_correctly_rounded(gamma):
    expected = float(alpha(torch.tensor(gamma, dtype=torch.float64)))
    assert float(exact_alpha(gamma)) == pytest.approx(expected, rel=1e-14)
    assert abs(fixed_alpha(gamma) / 2**24 - expected) <= 2.0**-25 + 1e-15 or fixed_alpha(gamma) == 1
    assert abs(exact_alpha(gamma) ** 2 + exact_alpha(-gamma) ** 2 - 1) < Decimal("1e-25")


@given(gamma=st.floats(-14, 6))
def test_the_conditioning_of_any_gamma_is_near_the_float_one(frozen_models, models, gamma):
    frozen = frozen_models["multiscale"]
    program, tensors = translate(models["multiscale"])
    floats = by_owner(tensors)["embedding"]
    embedded = program.embedding.run_float(floats, gamma, lambda name, value: None)
    level = frozen.level(gamma)
    assert len(level.conditions) == 4
    for position, condition in level.conditions.items():
        expected = tensors[f"{position}.condition.weight"] @ embedded
        limit = frozen.header.program.embedding.condition_limits[position] / 2**arithmetic.FEATURE_BITS
        assert (condition / 2**arithmetic.FEATURE_BITS - expected.clamp(-limit, limit)).abs().max() < 0.01


@pytest.mark.parametrize("gamma", [math.nan, math.inf, -1000.0])
def test_invalid_gammas_are_refused(frozen, gamma):
    with pytest.raises(NelboError, match="far outside the range"):
        frozen.level(gamma)
