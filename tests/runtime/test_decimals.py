"""The tables of decimals are pinned, whatever the process has set for its own decimals."""

import decimal
from hashlib import sha256

import pytest

from nelbo.codec.integer_basis import cosines
from nelbo.integer.noise_level import exact_alpha, fixed_alpha
from nelbo.runtime.decimals import log_table, power_table


@pytest.fixture(params=["as it is", "strange"])
def context(request):
    if request.param == "as it is":
        yield
        return
    default = decimal.DefaultContext.rounding
    decimal.DefaultContext.rounding = decimal.ROUND_UP
    with decimal.localcontext(decimal.Context(prec=6, traps=[decimal.Inexact, decimal.FloatOperation])):
        yield
    decimal.DefaultContext.rounding = default


@pytest.mark.usefixtures("context")
def test_tables_are_the_formats():
    for table, start in ((log_table, "f050a504ec02580d"), (power_table, "a78b7ce471df25af")):
        assert sha256(table.__wrapped__().astype("<i8").tobytes()).hexdigest().startswith(start)
    digest = sha256()
    for n in (*range(1, 40), 48, 64, 96):
        digest.update(cosines.__wrapped__(n).numpy().astype("<i8").tobytes())
    assert digest.hexdigest().startswith("a09136992b512a0a")
    gammas = [k / 7 for k in range(-140, 140)]
    for alpha, start in ((fixed_alpha, "67c0a86c1c20a886"), (exact_alpha, "0e43f7bdc39f9355")):
        assert sha256(repr([alpha(gamma) for gamma in gammas]).encode()).hexdigest().startswith(start)
