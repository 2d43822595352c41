"""What the tests of imported checkpoints share: the official code's parameters and its on-disk form."""

import msgpack
import numpy as np
import pytest


@pytest.fixture(scope="session")
def pack():
    """Returns the bytes of nested maps of arrays, as Flax writes them."""
    return _pack


@pytest.fixture(scope="session")
def training_state():
    """Returns the bytes of a checkpoint in which everything but the averages would give another model."""

    def content(ema_params) -> bytes:
        other = {"gamma": {"w": np.full(1, 9.0, "f4")}}
        moments = {"0": {"count": np.int32(3), "mu": other, "nu": other}, "1": {}, "2": None}
        return _pack({"step": np.int32(3), "params": other, "ema_params": ema_params, "opt_state": moments})

    return content


@pytest.fixture(scope="session")
def official_params():
    """Returns random parameters with the names and the shapes that the official code gives them."""
    return _official_params


def _pack(tree) -> bytes:
    def array(values):
        return msgpack.ExtType(1, _packb((values.shape, values.dtype.name, values.tobytes())))

    return _packb(tree, array)


def _packb(tree, default=None) -> bytes:
    return msgpack.packb(tree, default=default)  # pyright: ignore[reportReturnType]


def _official_params(n_blocks=1, attention=False, n_fourier=2, gamma_type="learnable_scalar", n_channels=32, n_image=3):
    rng = np.random.default_rng(0)
    n_cond = 4 * n_channels

    def normal(*shape, scale=1.0, shift=0.0):
        return (shift + scale * rng.standard_normal(shape)).astype("f4")

    def norm(n):
        return {"scale": normal(n, scale=0.2, shift=1.0), "bias": normal(n, scale=0.2)}

    def layer(*shape, n_rows=1):
        return {
            "kernel": normal(*shape, scale=(n_rows * shape[-2]) ** -0.5),
            "bias": normal(shape[-1], scale=0.2),
        }

    def conv(n_in, n_out):
        return layer(3, 3, n_in, n_out, n_rows=9)

    def block(n_in):
        shortcut = {} if n_in == n_channels else {"nin_shortcut": layer(n_in, n_channels)}
        return shortcut | {
            "GroupNorm_0": norm(n_in),
            "conv1": conv(n_in, n_channels),
            "cond_proj": {"kernel": normal(n_cond, n_channels, scale=n_cond**-0.5)},
            "GroupNorm_1": norm(n_channels),
            "conv2": conv(n_channels, n_channels),
        }

    def attend():
        layers = {name: layer(n_channels, n_channels) for name in ("q", "k", "v", "proj_out")}
        return layers | {"GroupNorm_0": norm(n_channels)}

    score = {
        "dense0": layer(n_channels + 1, n_cond),
        "dense1": layer(n_cond, n_cond),
        "conv_in": conv(n_image * (1 + 2 * n_fourier), n_channels),
        "GroupNorm_0": norm(n_channels),
        "conv_out": conv(n_channels, n_image),
        "mid.block_1": block(n_channels),
        "mid.attn_1": attend(),
        "mid.block_2": block(n_channels),
    }
    for way, n, n_in in (("down", n_blocks, n_channels), ("up", n_blocks + 1, 2 * n_channels)):
        score |= {f"{way}.block_{i}": block(n_in) for i in range(n)}
        score |= {f"{way}.attn_{i}": attend() for i in range(n) if attention}
    gamma = {
        "fixed": {},
        "learnable_scalar": {"gamma": {"b": normal(1) - 12, "w": normal(1) - 18}},
        "learnable_nnet": {
            "gamma": {
                "l1": {"kernel": normal(1, 1) + 17, "bias": normal(1) - 12},
                "l2": {"kernel": normal(1, 1024), "bias": normal(1024)},
                "l3": {"kernel": normal(1024, 1, scale=50.0)},
            }
        },
    }
    return gamma[gamma_type] | {"score_model": score}
