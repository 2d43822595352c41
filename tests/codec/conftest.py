"""What the codec's tests share: the tables, and one case of each codec."""

import numpy as np
import pytest

from nelbo.codec.codecs import CODECS, Codec
from nelbo.codec.tables import (
    Tables,
    build_tables,
    cumulative_integers,
    mean_integers,
    rate_integers,
    sharpness_integers,
)


@pytest.fixture(scope="session")
def tables() -> Tables:
    return build_tables()


@pytest.fixture(scope="session")
def codec_case(tables):
    """Makes a codec of the table, by its name, with n symbols' random parameters of the widest ranges."""

    def case(name: str, n: int, seed: int) -> Codec:
        rng = np.random.default_rng((seed, n))
        grey_means = mean_integers(rng.uniform(-40, 300, n))
        stds = np.exp2(rng.uniform(-6, 6, n))
        return {
            "uniform": lambda: CODECS[name](rng.integers(0, 25, n)),
            "categorical": lambda: CODECS[name](
                cumulative_integers(rng.dirichlet(np.full(40, 0.1), 7)), rng.integers(0, 7, n)
            ),
            "gaussian": lambda: CODECS[name](tables, mean_integers(rng.normal(0, 1e4, n)), rate_integers(stds)),
            "grey_gaussian": lambda: CODECS[name](tables, grey_means, rate_integers(stds)),
            "grey_softmax": lambda: CODECS[name](tables, grey_means, sharpness_integers(stds)),
        }[name]()

    return case
