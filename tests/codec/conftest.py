"""What the codec's tests share: the tables, and one case of each codec."""

import numpy as np
import pytest
import torch

from nelbo.basis import Basis
from nelbo.codec.codecs import CODECS, Codec
from nelbo.codec.tables import (
    Tables,
    build_tables,
    cumulative_integers,
    mean_integers,
    rate_integers,
    sharpness_integers,
)
from nelbo.exit import NEIGHBOURS, Exit
from nelbo.fingerprint import fingerprint
from nelbo.model import VDM
from nelbo.model_config import ModelConfig, UNetMultiscaleConfig
from nelbo.time_schedule.schedule import TimeSchedule


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


@pytest.fixture(scope="session")
def small_model():
    """A small network with weights that do something."""
    config = ModelConfig(
        image_shape=(3, 8, 8),
        net=UNetMultiscaleConfig(
            channels=(8, 16), n_blocks_down=(1, 1), n_blocks_up=(1, 1), heads=(0, 2), n_cond=16, fourier=(7, 8)
        ),
        prediction="v",
    )
    torch.manual_seed(0)
    model = VDM(config).eval()
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter += 0.2 / max(1, parameter[0].numel()) ** 0.5 * torch.randn(parameter.shape)
    return model


@pytest.fixture(scope="session")
def smooth_images():
    """Makes images that are neither flat nor white: ``smooth_images(n, seed=0, shape=(3, 8, 8))``."""

    def make(n: int, seed: int = 0, shape: tuple[int, int, int] = (3, 8, 8)):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand((n, shape[0], 2, 2), generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=shape[1:], mode="bilinear")
        return ((0.9 * smooth + 0.1 * torch.rand((n, *shape), generator=generator)) * 255).to(torch.uint8)

    return make


@pytest.fixture(scope="session")
def small_frozen(small_model, smooth_images):
    from nelbo.codec.exact.freeze import freeze

    return freeze(small_model, smooth_images(4), max_cost_bpd=1.0)


@pytest.fixture(scope="session")
def schedule_of(small_model):
    """Makes a schedule of some levels: ``schedule_of(kernel, exit, gammas)``."""

    def make(kernel: str, leave: str, gammas=(-13.3, -9.0, -5.0, -1.0, 5.0), scale=-4.0) -> TimeSchedule:
        n, rng = len(gammas) - 1, np.random.default_rng(len(gammas))
        basis, spectra, squares = None, None, None
        if kernel == "spectral":
            basis = Basis(torch.linalg.qr(torch.from_numpy(rng.normal(size=(3, 3)))).Q, (4, 8))
            spectra = torch.from_numpy(rng.uniform(0.1, 0.5, (n, 3, 4, 8)))
        if kernel == "analytic":
            squares = torch.from_numpy(rng.uniform(0.01, 0.3, n))
        return TimeSchedule(
            gammas=torch.tensor(gammas, dtype=torch.float64),
            reverse=kernel,
            exit=None if leave == "decoder" else exit_of(leave, rng, scale),
            fingerprint=fingerprint(small_model),
            image_shape=small_model.image_shape,
            n_steps=n if leave == "decoder" else n + 1,
            timesteps=None,
            prediction=None,
            mean_squares=squares,
            spectra=spectra,
            basis=basis,
        )

    return make


def exit_of(kind: str, rng: np.random.Generator, scale: float) -> Exit:
    """Returns an exit with weights and scales that do something."""
    n_known = 3 * len(NEIGHBOURS[kind]) + 2
    scales = np.array([[scale, 0.2, 0.1, 0.2]] * 3)[:, : 4 if NEIGHBOURS[kind] else 1]
    weights = rng.normal(0, 0.2 / n_known**0.5, (3, n_known))
    return Exit(kind, torch.from_numpy(weights), torch.from_numpy(scales + rng.normal(0, 0.01, scales.shape)), 0.5)
