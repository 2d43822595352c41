"""Whether a frozen network gives the same integers on other processors: a table of emulated ones, one process each.

Each process runs under limits on the instructions that PyTorch, oneDNN, MKL and numba may use, with a number of
threads, and hashes the answers of each executor for batches of several sizes. Beside it stands the same for the plain
float32 network, which is what would be at stake. Usage: ``exact_portability.py [--model cifar10-small] [--out JSON]``.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

LIMITS = {
    "as it is": {},
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "NUMBA_CPU_NAME": "haswell",
    },
    "SSE": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "NUMBA_CPU_NAME": "generic",
        "MKL_CBWR": "COMPATIBLE",
    },
}
N_IMAGES = 4
BATCHES = (1, 3, 4)
GAMMAS = (-13.3, 2.0)


def answers(folder: Path, model: str) -> dict[str, dict[str, str]]:
    """Returns, for each way to run, a hash of its answers for each batch size."""
    from nelbo.codec.exact.frozen import FrozenModel
    from nelbo.pretrained import load

    plain = load(model)
    z = torch.load(folder / "z.pt")
    frozen = {name: FrozenModel.load(folder / "frozen", executor=name) for name in ("native", "float32", "reference")}

    def floating(part: torch.Tensor, gamma: float) -> torch.Tensor:
        with torch.no_grad():
            return plain.denoise((part / 2**18).float(), torch.full((len(part),), gamma, dtype=torch.float64))

    runs = {name: model.result for name, model in frozen.items()} | {"plain float32": floating}
    return {name: {str(n): _hash(run, z, n) for n in BATCHES} for name, run in runs.items()}


def _hash(run: Callable[[torch.Tensor, float], torch.Tensor], z: torch.Tensor, n: int) -> str:
    parts = [torch.cat([run(part, gamma) for part in z.split(n)]) for gamma in GAMMAS]
    return sha256(torch.cat(parts).double().numpy().tobytes()).hexdigest()[:12]


def under(limits: dict[str, str], n_threads: int, folder: Path, model: str) -> dict[str, dict[str, str]]:
    """Returns the answers of a process under limits."""
    environment = os.environ | limits | {"OMP_NUM_THREADS": str(n_threads)}
    command = [sys.executable, __file__, "--worker", str(folder), "--model", model]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def prepare(folder: Path, model: str) -> None:
    """Freezes the model and draws latents."""
    from nelbo.codec.exact.freeze import choose_images, freeze
    from nelbo.pretrained import load

    loaded = load(model)
    freeze(loaded, choose_images(loaded, None, 4), max_cost_bpd=1.0).save(folder / "frozen")
    generator = torch.Generator().manual_seed(0)
    z = torch.randn((N_IMAGES, *loaded.image_shape), generator=generator, dtype=torch.float64)
    torch.save((z * 2**18).round(), folder / "z.pt")


def matrix(folder: Path, model: str) -> dict[str, dict[str, dict[str, str]]]:
    """Prints and returns the answers of every emulated processor and number of threads."""
    results = {}
    for name, limits in LIMITS.items():
        for n in (1, 2):
            row = results[f"{name}, {n} thread{'s' * (n > 1)}"] = under(limits, n, folder, model)
            cells = [f"{way}: {' '.join(digest[:6] for digest in found.values())}" for way, found in row.items()]
            print(f"{name}, {n} thread(s)".ljust(22), *cells, sep="  ", flush=True)
    return results


def main() -> None:
    """Prints the table; exits with 1 if an executor's answers differ anywhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="cifar10-small")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        print(json.dumps(answers(options.worker, options.model)))
        return
    with TemporaryDirectory() as name:
        prepare(Path(name), options.model)
        results = matrix(Path(name), options.model)
    ways = list(next(iter(results.values())))
    distinct = {way: {digest for row in results.values() for digest in row[way].values()} for way in ways}
    print({way: f"{len(found)} different answers" for way, found in distinct.items()})
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=2) + "\n")
    exact = set.union(*(distinct[way] for way in ways if way != "plain float32"))
    sys.exit(len(exact) != 1)


if __name__ == "__main__":
    main()
