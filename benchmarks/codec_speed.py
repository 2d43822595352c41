"""What the codec's time goes into: network and entropy coding, exact and plain arithmetic, steps and lanes.

Everything is on one thread of a CPU, in its processor time, so other work on the machine matters little. Images are
coded on messages that have bits enough, decoded and compared; there is neither JPEG XL nor a file.

    python benchmarks/codec_speed.py --out codec_speed.json
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

import nelbo
from nelbo.ans.lanes import Lanes
from nelbo.ans.message import Message
from nelbo.ans.tables import build_tables
from nelbo.codec.latent_coder import ChainCoder
from nelbo.codec.plan_store import budgets_of, named_plan
from nelbo.integer.frozen_files import FROZEN
from nelbo.integer.frozen_model import FrozenModel, Prediction
from nelbo.runtime.atomic import new_file
from nelbo.runtime.bundled import bundled_images, bundled_models

MODEL, IMAGES = "cifar10-small", "cifar10-test-256"
GAMMA = -3.0
N_WORDS = 20_000  # In a message before an image: more than any chain of latents borrows.
LANES = (1, 2, 4, 8, 16, 32)
USUAL_LANES, USUAL_BUDGET = 16, 16  # What `nelbo compress` takes by default.
MAX_SHARE, MAX_RATIO = 0.15, 3.0

Row = dict[str, float]


class TimedNetwork(FrozenModel):
    """A frozen model that counts the seconds of its predictions."""

    seconds = 0.0

    def predict(self, z: torch.Tensor, gamma: float) -> Prediction:
        """Returns what the frozen model predicts."""
        started = time.process_time()
        prediction = super().predict(z, gamma)
        self.seconds += time.process_time() - started
        return prediction


class TimedLanes(Lanes):
    """Lanes that count the seconds of their pushes and pops, means and rates of the exit's pixels included."""

    seconds = 0.0

    def attempt(self, lane: int, action: Callable[[], None]) -> None:
        """Does something on a lane."""
        started = time.process_time()
        super().attempt(lane, action)
        self.seconds += time.process_time() - started


# The network


def network(model: nelbo.DiffusionModel, frozen: FrozenModel, n_images: int, rounds: int) -> Row:
    """Returns the milliseconds an image of one evaluation, in turn: plain float32, fast exact, reference."""
    z = torch.randn((n_images, *model.image_shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fixed, latents = (z * 2**18).round(), z.float()
    gammas = torch.full((n_images,), GAMMA, dtype=torch.float64)
    reference = FrozenModel(frozen.header, frozen.tensors, executor="reference")

    @torch.no_grad()
    def floating() -> object:
        return model.denoise(latents, gammas)

    paths = {"float32": floating, "exact": lambda: frozen.result(fixed, GAMMA)}
    seconds = _in_turn(paths.values(), rounds)
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    slow = min(_in_turn([lambda: reference.result(fixed, GAMMA)], 2)[0])
    row = dict(zip(paths, (1e3 * statistics.median(each) / n_images for each in seconds), strict=True))
    return {"batch": n_images, **row, "reference": 1e3 * slow / n_images, "exact over float32": ratio}


def _in_turn(calls: Iterable[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Returns processor seconds of calls, timed A B A B ... after one round that is not."""
    calls = list(calls)
    seconds = [[_seconds(call) for call in calls] for _ in range(rounds + 1)][1:]
    return [list(each) for each in zip(*seconds, strict=True)]


def _seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


# Coding


def coding(network: TimedNetwork, images: np.ndarray, budget: int, n_lanes: int) -> Row:
    """Returns images a second each way for one image a lane, and what shares of the time there are."""
    plan = named_plan(network, budget)
    coder = ChainCoder(network, plan.plan, plan.gammas, build_tables())
    words = np.random.default_rng(0).integers(0, 2**32, (n_lanes, N_WORDS), np.uint32)
    lanes = TimedLanes([Message.seeded(row) for row in words])
    batch, decoded = images[:n_lanes], []
    network.seconds = 0.0
    encoding = _seconds(lambda: coder.encode(lanes, batch))
    decoding = _seconds(lambda: decoded.append(coder.decode(lanes)))
    assert not lanes.errors, "a message ran dry"
    assert np.array_equal(decoded[0], batch), "images did not come back"
    total = encoding + decoding
    return {
        "K": budget,
        "lanes": n_lanes,
        "encoded/s": n_lanes / encoding,
        "decoded/s": n_lanes / decoding,
        "network": network.seconds / total,
        "entropy coding": lanes.seconds / total,
        "rest": 1 - (network.seconds + lanes.seconds) / total,
    }


def table(title: str, rows: Iterable[Row]) -> list[Row]:
    """Prints rows as they come, and returns them."""
    done = []
    for row in rows:
        if not done:
            print(f"{title}\n" + "  ".join(f"{name:>14}" for name in row))
        print("  ".join(f"{value:14.3f}" if isinstance(value, float) else f"{value:>14}" for value in row.values()))
        done.append(row)
    return done


def main() -> None:
    """Prints the tables, whether both aims are reached, and writes everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=10, help="of the network's timing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    frozen = TimedNetwork.load(bundled_models()[MODEL] / FROZEN)
    assert isinstance(frozen, TimedNetwork), "load makes the class it is asked of"
    images, model = nelbo.open_images(bundled_images()[IMAGES]).read(range(max(LANES))).numpy(), nelbo.load(MODEL)
    coding(frozen, images, min(budgets_of(frozen)), 1)  # Compiles.
    evaluations = (network(model, frozen, n, options.rounds) for n in (1, USUAL_LANES, max(LANES)))
    by_steps = (coding(frozen, images, budget, USUAL_LANES) for budget in budgets_of(frozen))
    by_lanes = (coding(frozen, images, USUAL_BUDGET, n) for n in LANES)
    result = {
        "network": table(f"{MODEL}, one thread: milliseconds an image of one evaluation", evaluations),
        "steps": table("images a second and shares of the time, by network calls an image", by_steps),
        "lanes": table("the same, by chains coded side by side", by_lanes),
    }
    share = next(row["entropy coding"] for row in result["steps"] if row["K"] == USUAL_BUDGET)
    ratio = max(row["exact over float32"] for row in result["network"])
    print(f"entropy coding at K = {USUAL_BUDGET}: {share:.1%} of the time, to be at most {MAX_SHARE:.0%}")
    print(f"exact over plain float32: {ratio:.2f} at worst, to be at most {MAX_RATIO:.1f}")
    if options.out is not None:
        with new_file(options.out) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
