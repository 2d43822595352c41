"""The laws of operations, over the whole family and over one that is registered from outside the package."""

import contextlib
import copy
from typing import Literal

import pytest
import torch

from nelbo.errors import NelboError
from nelbo.integer.embedding import Embedding
from nelbo.integer.executors import NativeExecutor, ReferenceExecutor, run_float
from nelbo.integer.freeze import freeze
from nelbo.integer.frozen_model import FrozenModel
from nelbo.integer.operations.add import Add
from nelbo.integer.operations.attention import Attend
from nelbo.integer.operations.concat import Concat
from nelbo.integer.operations.convolution import Conv
from nelbo.integer.operations.features import Features
from nelbo.integer.operations.norm import Norm
from nelbo.integer.operations.shuffle import Shuffle, Unshuffle
from nelbo.integer.program import OPERATIONS, IntegerNetwork, Program
from nelbo.integer.quantise import quantised
from nelbo.integer.translate import BLOCKS

from fixtures.channel_gain import ChannelGain, GainModule, SlowGain, translation_to

CPU = torch.device("cpu")


def conv(source, stride=1, padding=1):
    return Conv(source=source, stride=stride, padding=padding)


def norm(source, condition: Literal["none", "before", "modulate"] = "none", silu=True):
    return Norm(source=source, groups=2, eps=1e-6, silu=silu, condition=condition)


# Programs for each operation: a latent, features of eight channels, the operation, and what brings the latent's back.
STEM = [Features(exponents=(7, 8)), conv(0)]
PROGRAMS = {
    "convolution": [*STEM, conv(1)],
    "1x1 convolution": [*STEM, conv(1, padding=0)],
    "strided convolution": [*STEM, conv(1, stride=2, padding=0), Shuffle(source=2, factor=2)],
    "norm": [*STEM, norm(1, silu=False), conv(2)],
    "norm and SiLU": [*STEM, norm(1), conv(2)],
    "norm of shifted features": [*STEM, norm(1, "before"), conv(2)],
    "modulated norm": [*STEM, norm(1, "modulate"), conv(2)],
    "attention": [*STEM, conv(1), Attend(source=2, heads=2), conv(3, padding=0)],
    "sum": [*STEM, conv(1), Add(left=1, right=2), conv(3)],
    "joined channels": [*STEM, conv(1), Concat(left=1, right=2), conv(3)],
    "space to depth": [*STEM, Unshuffle(source=1, factor=2), conv(2), Shuffle(source=3, factor=2)],
    "depth to space": [*STEM, Shuffle(source=1, factor=2), conv(2, stride=2, padding=0)],
    "no features": [Features(exponents=()), conv(0)],
    "an operation from outside": [*STEM, ChannelGain(source=1), conv(2)],
}
N_LATENT, N_FEATURES, N_COND = 2, 8, 6
programs = pytest.mark.parametrize("name", PROGRAMS)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    for operation in (ChannelGain, SlowGain):
        monkeypatch.setitem(OPERATIONS, operation.kind(), operation)


def random_weights(operations):
    """Returns float weights: the last convolution makes latents, one before attention queries, keys and values."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    tensors = {"embedding.rates": torch.tensor([1000.0, 0.1], dtype=torch.float64)}
    for layer, n_in in (("dense0", 4), ("dense1", N_COND)):
        tensors |= {f"embedding.{layer}.weight": random(N_COND, n_in), f"embedding.{layer}.bias": random(N_COND)}
    channels = []
    for i, op in enumerate(operations):
        n_in, rest = sum(channels[source] for source in op.sources), operations[i + 1 :]
        match op:
            case Features():
                channels.append(N_LATENT * (1 + 2 * len(op.exponents)))
            case Conv():
                size = {(1, 1): 3, (1, 0): 1, (2, 0): 2}[op.stride, op.padding]
                n_out = 24 if rest and isinstance(rest[0], Attend) else N_FEATURES
                if not any(isinstance(other, Conv) for other in rest):
                    n_out = N_LATENT * (4 if rest else 1)
                channels.append(n_out)
                weight = random(n_out, n_in, size, size) * (n_in * size**2) ** -0.5
                tensors |= {f"{i}.weight": weight, f"{i}.bias": random(n_out)}
            case Norm():
                channels.append(n_in)
                tensors |= {f"{i}.gain": 1 + 0.3 * random(n_in), f"{i}.offset": 0.3 * random(n_in)}
                if n_conditions := op.n_conditions(n_in):
                    tensors[f"{i}.condition.weight"] = 0.3 * random(n_conditions, N_COND)
            case ChannelGain():
                channels.append(n_in)
                tensors[f"{i}.gain"] = 1 + 0.3 * random(n_in)
            case Attend():
                channels.append(n_in // 3)
            case Shuffle():
                channels.append(n_in // op.factor**2)
            case Unshuffle():
                channels.append(n_in * op.factor**2)
            case Add():
                channels.append(n_in // 2)
            case _:
                channels.append(n_in)
    return tensors


@pytest.fixture(scope="module")
def made(latents):
    """Makes a program with float weights and its integer twin, once."""
    known = {}

    def make(name, n_limbs=2):
        if (name, n_limbs) not in known:
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
            known[name, n_limbs] = program, tensors, *quantised(program, tensors, largest, squares, n_limbs)
        return known[name, n_limbs]

    return make


@programs
def test_an_operation_is_near_its_float_counterpart(name, made, latents):
    program, floats, fixed, tensors = made(name, n_limbs=3)
    z, network = latents(program, 2, seed=1), IntegerNetwork(fixed, tensors)
    result = ReferenceExecutor(network, CPU).run(z, network.conditions(-2.0)) / 2**16
    expected = run_float(program, floats, z / 2**18, -2.0)
    assert expected.std() > 0.1
    assert (result - expected).abs().max() < 0.01
    assert (result - expected).square().mean().sqrt() < 0.002


@programs
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_executors_agree_on_every_operation(name, size, made, latents):
    program, _, fixed, tensors = made(name)
    z, network = latents(program, 3, size=size), IntegerNetwork(fixed, tensors)
    conditions = network.conditions(1.0)
    reference = ReferenceExecutor(network, CPU).run(z, conditions)
    assert torch.equal(reference, reference.round())
    assert torch.equal(NativeExecutor(network).run(z, conditions), reference)
    assert torch.equal(ReferenceExecutor(network, CPU, "float32").run(z, conditions), reference)


@programs
def test_no_result_leaves_what_is_known_of_it(name, made, latents):
    """The largest latents and conditioning, of either sign: sizes, limits and lower limits hold for every result."""
    program, _, fixed, tensors = made(name)
    network = IntegerNetwork(fixed, tensors)
    values = [op.bound(network.places[i], network.weights[i]) for i, op in enumerate(fixed.operations)]
    z, results, generator = latents(program, 4, size=100.0).clamp(-(2**22), 2**22), [], torch.Generator().manual_seed(0)
    for op, place, own, value in zip(fixed.operations, network.places, network.weights, values, strict=True):
        signs = torch.randn(op.n_conditions(value.channels), generator=generator, dtype=torch.float64).sign()
        condition = place.condition_limit * signs if len(signs) else None
        step = op.reference(place, own, network.tables, "float64")
        results.append(step(z, [results[source] for source in op.sources], condition))
        assert results[-1].shape[1:] == (value.channels, value.height, value.width)
        assert results[-1].max() <= value.limit
        assert results[-1].min() >= -value.low


@programs
def test_a_program_is_its_json(name, made):
    _, _, fixed, _ = made(name)
    assert Program.model_validate_json(fixed.model_dump_json()) == fixed


@programs
def test_any_integers_are_refused_or_computed_alike(name, made, latents):
    """Each tensor at the extremes of its type: what has a proof is exact, and nothing else gets to run."""
    program, _, fixed, tensors = made(name)
    z, refused = latents(program, 2, size=100.0), 0
    for each, tensor in tensors.items():
        if each.startswith("table."):
            continue
        for extreme in (torch.iinfo(tensor.dtype).max, torch.iinfo(tensor.dtype).min, 0):
            forged = tensor.clone()
            forged[::2] = extreme
            try:
                network = IntegerNetwork(fixed, tensors | {each: forged})
            except NelboError:
                refused += 1
                continue
            conditions = network.conditions(1.0)
            reference = ReferenceExecutor(network, CPU).run(z, conditions)
            assert torch.equal(reference, reference.round())
            with contextlib.suppress(NelboError):  # Too many digits for 16 bits.
                assert torch.equal(NativeExecutor(network).run(z, conditions), reference)
    assert refused > 0


@programs
def test_tensors_that_do_not_fit_are_refused_by_name(name, made):
    _, _, fixed, tensors = made(name)
    for each in tensors:
        without = {other: tensor for other, tensor in tensors.items() if other != each}
        own = each.partition(".")[2]
        with pytest.raises(NelboError, match=f"the tensor '{own}' is missing"):
            IntegerNetwork(fixed, without)
        with pytest.raises(NelboError, match=f"the tensor '{own}' is .* of torch.float32, not"):
            IntegerNetwork(fixed, without | {each: tensors[each].float()})
        if each != "embedding.rates":
            with pytest.raises(NelboError, match=r"the tensor '\S*' is .* of torch\.int|gives operation"):
                IntegerNetwork(fixed, without | {each: torch.cat([tensors[each], tensors[each]])})


def test_what_is_not_registered_is_refused_by_name(made, monkeypatch):
    text = made("an operation from outside")[2].model_dump_json()
    monkeypatch.delitem(OPERATIONS, "channel_gain")
    with pytest.raises(ValueError, match="there is no operation 'channel_gain'; there are features"):
        Program.model_validate_json(text)


@pytest.mark.parametrize("operation", [ChannelGain, SlowGain])
def test_a_network_with_a_module_from_outside_is_frozen(operation, models, images_of, latents, tmp_path, monkeypatch):
    """One entry for the operation, one for the translation of its module; without loops the reference runs."""
    model = copy.deepcopy(models["multiscale"])
    model.net.down[0].blocks[0].shortcut = GainModule(8)
    with pytest.raises(NelboError, match=r"no operation for fixtures\.channel_gain\.GainModule"):
        freeze(model, images_of(model))
    monkeypatch.setitem(BLOCKS, "fixtures.channel_gain.GainModule", translation_to(operation))
    freeze(model, images_of(model), max_cost_bpd=1.0).save(tmp_path / "frozen")
    frozen, z = FrozenModel.load(tmp_path / "frozen"), latents(model, 2, seed=3)
    assert frozen.executor(2) == ("native" if operation is ChannelGain else "reference")
    with torch.no_grad():
        expected = model.net((z / 2**18).float(), torch.full((2,), -2.0)).double()
    assert (frozen.result(z, -2.0) / 2**16 - expected).square().mean().sqrt() < 0.02 * expected.std()


def test_an_operation_without_loops_is_refused_by_name(made):
    _, _, fixed, tensors = made("an operation from outside")
    slow = [
        SlowGain(**op.model_dump(exclude={"type"})) if op.kind() == "channel_gain" else op for op in fixed.operations
    ]
    network = IntegerNetwork(fixed.model_copy(update={"operations": tuple(slow)}), tensors)
    with pytest.raises(NelboError, match=r"operation 2 \(slow_gain\) has no compiled loops"):
        NativeExecutor(network)
