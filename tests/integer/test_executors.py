"""All executors give the same integers, whatever the batch, memory and threads, and near those of floating point."""

from typing import Literal

import pytest
import torch

from nelbo.errors import NelboError
from nelbo.integer.float_executor import run_float
from nelbo.integer.frozen_model import FrozenModel
from nelbo.integer.native_executor import NativeExecutor
from nelbo.integer.noise_level import make_level
from nelbo.integer.program import Add, Attend, Concat, Conv, Embedding, Features, Norm, Program, Shuffle, Unshuffle
from nelbo.integer.quantise import Quantiser
from nelbo.integer.reference_executor import PortableExecutor

CPU = torch.device("cpu")


def conv(source, stride=1, padding=1):
    return Conv(source=source, stride=stride, padding=padding)


def norm(source, condition: Literal["none", "before", "modulate"] = "none", silu=True):
    return Norm(source=source, groups=2, eps=1e-6, silu=silu, condition=condition)


# One program for each operation: a latent, features of eight channels, the operation, and what brings it back.
STEM = [Features(exponents=(7, 8)), conv(0)]
PROGRAMS = {
    "convolution": [*STEM, conv(1)],
    "1x1 convolution": [*STEM, conv(1, padding=0)],
    "strided convolution": [*STEM, conv(1, stride=2, padding=0)],
    "norm": [*STEM, norm(1, silu=False), conv(2)],
    "norm and SiLU": [*STEM, norm(1), conv(2)],
    "norm of shifted features": [*STEM, norm(1, "before"), conv(2)],
    "modulated norm": [*STEM, norm(1, "modulate"), conv(2)],
    "attention": [*STEM, conv(1), Attend(source=2, heads=2), conv(3, padding=0)],
    "sum": [*STEM, conv(1), Add(left=1, right=2), conv(3)],
    "joined channels": [*STEM, conv(1), Concat(left=1, right=2), conv(3)],
    "space to depth": [*STEM, Unshuffle(source=1, factor=2), conv(2)],
    "depth to space": [*STEM, Shuffle(source=1, factor=2), conv(2)],
    "no features": [Features(exponents=()), conv(0)],
}
N_LATENT, N_FEATURES, N_COND = 2, 8, 6


def random_weights(operations):
    """Returns float weights: every convolution has eight channels out, or 24 for queries, keys and values."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    tensors = {"embedding.rates": torch.tensor([1000.0, 0.1], dtype=torch.float64)}
    for layer, n_in in (("dense0", 4), ("dense1", N_COND)):
        tensors |= {f"embedding.{layer}.weight": random(N_COND, n_in), f"embedding.{layer}.bias": random(N_COND)}
    channels = []
    for i, op in enumerate(operations):
        n_in = sum(channels[source] for source in op.sources)
        match op:
            case Features():
                channels.append(N_LATENT * (1 + 2 * len(op.exponents)))
            case Conv():
                size = {(1, 1): 3, (1, 0): 1, (2, 0): 2}[op.stride, op.padding]
                channels.append(24 if isinstance(operations[min(i + 1, len(operations) - 1)], Attend) else N_FEATURES)
                weight = random(channels[-1], n_in, size, size) * (n_in * size**2) ** -0.5
                tensors |= {f"{i}.weight": weight, f"{i}.bias": random(channels[-1])}
            case Norm():
                channels.append(n_in)
                tensors |= {f"{i}.gain": 1 + 0.3 * random(n_in), f"{i}.offset": 0.3 * random(n_in)}
                if op.condition != "none":
                    n_out = n_in * (2 if op.condition == "modulate" else 1)
                    tensors[f"{i}.condition.weight"] = 0.3 * random(n_out, N_COND)
            case Attend():
                channels.append(n_in // 3)
            case Shuffle():
                channels.append(n_in // op.factor**2)
            case Unshuffle():
                channels.append(n_in * op.factor**2)
            case Add():
                channels.append(n_in // 2)
            case Concat():
                channels.append(n_in)
    return tensors


def quantised(name, latents, n_limbs=2):
    """Returns a program with float weights and its integer twin."""
    program = Program(
        image_shape=(N_LATENT, 8, 8),
        operations=tuple(PROGRAMS[name]),
        embedding=Embedding(low=-13.3, high=5.0),
        adds_latent=False,
        prediction="eps",
    )
    tensors, largest, squares = random_weights(program.operations), {}, {}

    def observe(name, value):
        largest[name] = max(largest.get(name, 0.0), float(value.abs().max()))
        squares[name] = max(squares.get(name, 0.0), float(value.square().mean()))

    for gamma in (-13.0, -2.0, 1.0):
        run_float(program, tensors, latents(program, 8) / 2**18, gamma, observe)
    return program, tensors, *Quantiser(program, tensors, largest, squares, n_limbs).run()


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_operation_is_near_its_float_counterpart(name, latents):
    program, floats, fixed, tensors = quantised(name, latents, n_limbs=3)
    z = latents(program, 2, seed=1)
    conditions = make_level(fixed.embedding, tensors, -2.0).conditions
    result = PortableExecutor(fixed, tensors, CPU).run(z, conditions) / 2**16
    expected = run_float(program, floats, z / 2**18, -2.0)
    assert expected.std() > 0.1
    assert (result - expected).abs().max() < 0.01
    assert (result - expected).square().mean().sqrt() < 0.002


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_executors_agree_on_every_operation(name, size, latents):
    program, _, fixed, tensors = quantised(name, latents)
    z = latents(program, 3, size=size)
    conditions = make_level(fixed.embedding, tensors, 1.0).conditions
    reference = PortableExecutor(fixed, tensors, CPU).run(z, conditions)
    assert torch.equal(reference, reference.round())
    assert torch.equal(NativeExecutor(fixed, tensors).run(z, conditions), reference)
    assert torch.equal(PortableExecutor(fixed, tensors, CPU, "float32").run(z, conditions), reference)


@pytest.mark.parametrize("executor", ["native", "float32"])
def test_an_image_does_not_depend_on_its_company(frozen, executor, latents):
    model = FrozenModel(frozen.header, frozen.tensors, executor=executor)
    z = latents(frozen, 3, seed=2)
    expected = FrozenModel(frozen.header, frozen.tensors, executor="reference").result(z, 3.0)
    assert torch.equal(model.result(z, 3.0), expected)
    assert torch.equal(model.result(z.long().to(memory_format=torch.channels_last), 3.0), expected)
    assert torch.equal(model.result(z[1:2], 3.0), expected[1:2])
    many = z.repeat(12, 1, 1, 1)  # More than one call holds.
    assert torch.equal(model.result(many, 3.0), expected.repeat(12, 1, 1, 1))


def test_threads_change_nothing(frozen_models, latents):
    frozen = frozen_models["multiscale"]
    z = latents(frozen, 5, seed=4)
    expected = frozen.result(z, 1.0)
    torch.set_num_threads(2)
    try:
        assert torch.equal(frozen.result(z, 1.0), expected)
    finally:
        torch.set_num_threads(1)


def test_a_frozen_network_is_near_its_model(model, frozen, latents):
    z = latents(model, 4, seed=3)
    for gamma in (-13.0, -6.0, 0.0, 5.0):
        with torch.no_grad():
            expected = model.net((z / 2**18).float(), torch.full((4,), gamma)).double()
        error = (frozen.result(z, gamma) / 2**16 - expected).square().mean().sqrt()
        assert error < 0.02 * expected.std()


def test_latents_beyond_sixteen_are_clamped(frozen, latents):
    z = latents(frozen, 1, size=100.0)
    clamped = z.clamp(-(2**22), 2**22)
    assert not torch.equal(z, clamped)
    one, other = frozen.predict(z, 0.0), frozen.predict(clamped, 0.0)
    assert torch.equal(one.eps_hat, other.eps_hat)
    assert torch.equal(one.x_hat, other.x_hat)


def test_wild_values_stay_within_the_proved_limits(latents):
    """Latents far outside the calibration meet every clamp, and all executors still agree."""
    program, _, fixed, tensors = quantised("modulated norm", latents)
    z = torch.full((1, *program.image_shape), 2.0**22, dtype=torch.float64)
    z[..., ::2] *= -1
    conditions = {
        position: torch.full((16,), float(limit), dtype=torch.float64)
        for position, limit in fixed.embedding.condition_limits.items()
    }
    reference = PortableExecutor(fixed, tensors, CPU).run(z, conditions)
    assert torch.equal(NativeExecutor(fixed, tensors).run(z, conditions), reference)
    last = fixed.operations[-1]
    assert isinstance(last, Conv)
    assert reference.abs().max() <= last.limit


def test_too_many_digits_are_refused(latents):
    _, _, fixed, tensors = quantised("convolution", latents)
    tensors["2.weight"] = torch.full_like(tensors["2.weight"], 2**14, dtype=torch.int32) * 2**9
    with pytest.raises(NelboError, match="operation 2 has too many products for int16"):
        NativeExecutor(fixed, tensors)
    with pytest.raises(NelboError, match="operation 2 has too many products for float32"):
        PortableExecutor(fixed, tensors, CPU, "float32")


def test_weights_of_other_channels_are_refused(latents):
    program, _, fixed, tensors = quantised("convolution", latents)
    tensors["2.weight"] = torch.zeros((8, 10, 3, 3), dtype=torch.int16)
    with pytest.raises(NelboError, match="does not fit its 8 channels"):
        NativeExecutor(fixed, tensors).run(latents(program, 1), make_level(fixed.embedding, tensors, 1.0).conditions)
