"""Whether archives are the same on other processors, and decode there: a matrix of emulated ones, one process each.

Each process runs under limits on the instructions that PyTorch, oneDNN, MKL and numba may use, with a number of
threads. It compresses the same images with several numbers of lanes, decodes the archive that the first process wrote,
and evaluates the frozen network by each executor in batches of several sizes. Beside it stands the plain float32
network, which is what would be at stake. Where there is a GPU, it makes one more row.

    python benchmarks/portability.py --models mnist-tiny cifar10-small --out portability.json

Exit status 1 if anything but plain float32 differs anywhere.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from nelbo.codec.codec import Codec
from nelbo.codec.plan_store import named_plan
from nelbo.container.records import BlockKind
from nelbo.container.stream import read_block_at, read_places
from nelbo.data.open import open_images
from nelbo.errors import NelboError
from nelbo.integer.freeze import choose_images
from nelbo.integer.frozen_files import FROZEN
from nelbo.integer.frozen_model import FrozenModel
from nelbo.models.folder import load
from nelbo.runtime.bundled import bundled_images, bundled_models

LIMITS = {
    "as it is": {},
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+popcnt",
    },
    "SSE": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "+sse2",
        "MKL_CBWR": "COMPATIBLE",
    },
}
THREADS = (1, 2)
EXECUTORS = {"cpu": ("native", "float32", "reference"), "cuda": ("float32", "reference")}
AT_STAKE = "plain float32"
BATCHES = (1, 3, 4)  # For the network alone.
GAMMAS = (-13.3, 2.0)

Answers = dict[str, list[str]]
"""Hashes that should be one, by what was computed."""


@dataclass(frozen=True)
class Case:
    """What every process does with a model.

    Attributes:
        model: Name or folder of the plain model.
        budget: Network calls an image, of the plans that come with the frozen model.
        n_chain: Images a chain.
        lanes: Chains coded side by side, in turn.
    """

    model: str
    budget: int
    n_chain: int
    lanes: tuple[int, ...]


def prepare(folder: Path, case: Case, frozen: FrozenModel, images: torch.Tensor) -> Path:
    """Writes everything that the processes read: the case, the frozen model, images and latents."""
    folder.mkdir()
    (folder / "case.json").write_text(json.dumps(asdict(case)))
    frozen.save(folder / FROZEN)
    np.save(folder / "images.npy", images.numpy())
    generator = torch.Generator().manual_seed(0)
    z = torch.randn((max(BATCHES), *frozen.image_shape), generator=generator, dtype=torch.float64)
    np.save(folder / "z.npy", (z * 2**18).round().numpy())
    return folder


# One process


def answers(folder: Path, device: str = "cpu") -> Answers:
    """Returns this process's hashes: archives, decoded pixels, the network by each executor, and in plain float32."""
    case = Case(**json.loads((folder / "case.json").read_text()))
    frozen = {name: FrozenModel.load(folder / FROZEN, device, name) for name in ("auto", *EXECUTORS[device])}
    z = torch.from_numpy(np.load(folder / "z.npy")).to(device)
    networks = {name: [_in_parts(frozen[name].result, z, n) for n in BATCHES] for name in EXECUTORS[device]}
    plain = load(case.model, torch.device(device))

    @torch.no_grad()
    def floating(part: torch.Tensor, gamma: float) -> torch.Tensor:
        return plain.denoise((part / 2**18).float(), torch.full((len(part),), gamma, dtype=torch.float64).to(device))

    return {
        **_archives(folder, case, frozen["auto"]),
        **networks,
        AT_STAKE: [_in_parts(floating, z, n) for n in BATCHES],
    }


def _archives(folder: Path, case: Case, frozen: FrozenModel) -> Answers:
    """Returns the hashes of the archives and of what the first process's decodes to, for each number of lanes."""
    images, first = torch.from_numpy(np.load(folder / "images.npy")), folder / "first.nelbo"
    codecs = [
        Codec(None, named_plan(frozen, case.budget), frozen, "portability", case.n_chain, lanes, verify=False)
        for lanes in case.lanes
    ]
    written = [codec.compress(images) for codec in codecs]
    if not first.exists():
        first.write_bytes(written[0])
    return {
        "archives": [_hash(data) for data in written],
        "decoded": [_decoded(codec, first.read_bytes(), images) for codec in codecs],
    }


def _decoded(codec: Codec, data: bytes, images: torch.Tensor) -> str:
    try:
        return "right" if torch.equal(codec.decompress(data), images) else "WRONG"
    except NelboError as error:
        return f"FAILED ({error})"


def _in_parts(run: Callable[[torch.Tensor, float], torch.Tensor], z: torch.Tensor, n: int) -> str:
    parts = [torch.cat([run(part, gamma) for part in z.split(n)]) for gamma in GAMMAS]
    return _hash(torch.cat(parts).double().cpu().numpy().tobytes())


def _hash(data: bytes) -> str:
    return sha256(data).hexdigest()[:12]


# All processes


def under(limits: Mapping[str, str], n_threads: int, folder: Path, device: str = "cpu") -> Answers:
    """Returns the answers of a process under limits."""
    environment = os.environ | limits | {"OMP_NUM_THREADS": str(n_threads)}
    command = [sys.executable, __file__, "--worker", str(folder), "--device", device]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def matrix(folder: Path) -> dict[str, Answers]:
    """Prints and returns the answers of every emulated processor and number of threads, and of the GPU."""
    places = [(name, n, limits, "cpu") for name, limits in LIMITS.items() for n in THREADS]
    if torch.cuda.is_available():
        places.append((torch.cuda.get_device_name(), THREADS[0], {}, "cuda"))
    rows = {}
    for name, n_threads, limits, device in places:
        title = f"{name}, {n_threads} thread{'s' * (n_threads > 1)}"
        rows[title] = under(limits, n_threads, folder, device)
        cells = (f"{what}: {' '.join(value[:6] for value in found)}" for what, found in rows[title].items())
        print(title.ljust(20), *cells, sep="  ", flush=True)
    return rows


def differing(rows: Mapping[str, Answers]) -> list[str]:
    """Returns what is not the same everywhere although it should be."""
    found: dict[str, set[str]] = {}
    for row in rows.values():
        for what, values in row.items():
            found.setdefault("network" if what in EXECUTORS["cpu"] else what, set()).update(values)
    wrong = {what for what, values in found.items() if len(values) > 1 and what != AT_STAKE}
    return sorted(wrong | ({"decoded"} if found["decoded"] != {"right"} else set()))


def bundled_case(folder: Path, name: str, options: argparse.Namespace) -> Path:
    """Prepares a bundled model with bundled images if there are some of its shape, else with samples of its own."""
    frozen = FrozenModel.load(bundled_models()[name] / FROZEN)
    sets = [images for path in bundled_images().values() if (images := open_images(path)).shape == frozen.image_shape]
    images = sets[0].read(range(options.images)) if sets else choose_images(load(name), None, options.images)
    case = Case(name, options.steps, options.chain, tuple(options.lanes))
    return prepare(folder / name, case, frozen, images)


def n_coded(archive: bytes) -> tuple[int, int]:
    """Returns how many chains of an archive are bits-back, and how many there are."""
    header, places = read_places(BytesIO(archive))
    kinds = [read_block_at(BytesIO(archive), header, place).kind for place in places]
    return kinds.count(BlockKind.BITS_BACK), len(kinds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the matrices; returns 1 if anything differs that should not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["mnist-tiny", "cifar10-small"], help="bundled models")
    parser.add_argument("--steps", type=int, default=4, help="network calls an image")
    parser.add_argument("--images", type=int, default=18)
    parser.add_argument("--chain", type=int, default=6, help="images a chain")
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        print(json.dumps(answers(options.worker, options.device)))
        return 0
    results, is_wrong = {}, False
    with TemporaryDirectory() as name:
        for model in options.models:
            folder = bundled_case(Path(name), model, options)
            print(f"{model}, {options.steps} calls, lanes {options.lanes}, network in batches of {BATCHES}")
            rows = results[model] = matrix(folder)
            is_wrong |= not reported(rows, folder)
    if not torch.cuda.is_available():
        print("no GPU here: its row was not computed")
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=2) + "\n")
    return int(is_wrong)


def reported(rows: Mapping[str, Answers], folder: Path) -> bool:
    """Prints what the matrix says; returns whether all is the same and an archive had a bits-back chain at all."""
    coded, chains = n_coded((folder / "first.nelbo").read_bytes())
    at_stake = {value for row in rows.values() for value in row[AT_STAKE]}
    wrong = differing(rows)
    print(f"{coded} of {chains} chains are bits-back; {AT_STAKE} has {len(at_stake)} different answers; ", end="")
    print("DIFFERENT: " + ", ".join(wrong) if wrong else "all else is the same")
    return coded > 0 and not wrong


if __name__ == "__main__":
    sys.exit(main())
