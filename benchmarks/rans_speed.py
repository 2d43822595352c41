"""Nanoseconds a symbol of the entropy coder, push and pop, against ``constriction`` on the same distributions."""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import constriction
import numpy as np

from nelbo.ans.distributions import CODECS, Codec
from nelbo.ans.message import Head, Message
from nelbo.ans.tables import (
    build_tables,
    cumulative_integers,
    mean_integers,
    rate_integers,
    sharpness_integers,
)
from nelbo.runtime.atomic import new_file

N_SYMBOLS = 3072 * 16
ROUNDS = 15
STD = 2.0  # Lattice steps: kappa = 0.5 and the posterior's own width.
TAU = 0.166  # Grey levels: the noise of a latent at gamma_0 = -13.3.

Timing = dict[str, float]


def nanoseconds(call: Callable[[], object]) -> float:
    """Returns the processor time of one call per symbol."""
    started = time.process_time()  # Of this process alone, on a machine that others may use.
    call()
    return (time.process_time() - started) / N_SYMBOLS * 1e9


def codecs(rng: np.random.Generator) -> dict[str, Codec]:
    """Returns each codec as bits-back uses it."""
    tables, mean = build_tables(), mean_integers(rng.normal(0, 100, N_SYMBOLS))
    greys = mean_integers(rng.uniform(0, 255, N_SYMBOLS))
    rows = cumulative_integers(rng.dirichlet(np.full(25, 0.5), 64))
    return {
        "gaussian, one scale": CODECS["gaussian"](tables, mean, rate_integers(np.full(N_SYMBOLS, STD))),
        "gaussian, many scales": CODECS["gaussian"](
            tables, mean, rate_integers(STD * np.exp(rng.uniform(0, 2, N_SYMBOLS)))
        ),
        "grey_gaussian": CODECS["grey_gaussian"](tables, greys, rate_integers(np.full(N_SYMBOLS, 2.0))),
        "grey_softmax": CODECS["grey_softmax"](tables, greys, sharpness_integers(np.full(N_SYMBOLS, TAU))),
        "categorical, 25 symbols": CODECS["categorical"](rows, rng.integers(0, 64, N_SYMBOLS)),
        "uniform, 8 bits": CODECS["uniform"](np.full(N_SYMBOLS, 8)),
    }


def time_ours(codec: Codec, words: np.ndarray, head: Head) -> Timing:
    """Pops and pushes back in turn; the message is the same after each round."""
    message = Message.seeded(words)
    codec.push(message, head, codec.pop(message, head))  # Compiles.
    pops, pushes = [], []
    for _ in range(ROUNDS):
        symbols: list[np.ndarray] = []
        pops.append(nanoseconds(lambda symbols=symbols: symbols.append(codec.pop(message, head))))
        pushes.append(nanoseconds(lambda symbols=symbols: codec.push(message, head, symbols[0])))
    return {"push": statistics.median(pushes), "pop": statistics.median(pops)}


def time_constriction(rng: np.random.Generator, words: np.ndarray, stds: np.ndarray) -> Timing:
    """Its discretised Gaussian with a mean and a scale for each symbol, on a window of 4,096 points."""
    coder = constriction.stream.stack.AnsCoder(words)  # pyright: ignore[reportAttributeAccessIssue]
    family = constriction.stream.model.QuantizedGaussian(-2048, 2047)  # pyright: ignore[reportAttributeAccessIssue]
    mean = rng.normal(0, 100, N_SYMBOLS)
    pops, pushes = [], []
    for _ in range(ROUNDS):
        symbols: list[np.ndarray] = []
        pops.append(nanoseconds(lambda symbols=symbols: symbols.append(coder.decode(family, mean, stds))))
        pushes.append(nanoseconds(lambda symbols=symbols: coder.encode_reverse(symbols[0], family, mean, stds)))
    return {"push": statistics.median(pushes), "pop": statistics.median(pops)}


def main() -> None:
    """Prints the table; writes it as JSON with ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**32, N_SYMBOLS, dtype=np.uint32)
    results = {
        f"{name}, head {head.name}": time_ours(codec, words, head)
        for name, codec in codecs(rng).items()
        for head in Head
    }
    results["constriction gaussian, one scale"] = time_constriction(rng, words, np.full(N_SYMBOLS, STD))
    many = STD * np.exp(rng.uniform(0, 2, N_SYMBOLS))
    results["constriction gaussian, many scales"] = time_constriction(rng, words, many)
    print(f"entropy coder: {N_SYMBOLS} symbols, medians of {ROUNDS} rounds, nanoseconds a symbol")
    for name, timing in results.items():
        print(f"  {name:<36} push {timing['push']:7.1f}   pop {timing['pop']:7.1f}")
    if out is not None:
        with new_file(out) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
