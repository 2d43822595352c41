"""What each bundled model is worth and what it costs: bound, parameters, bytes, GFLOP and images a second.

The bound is the one stated beside the weights, of the whole test set; the speed is measured here, in the default
precision, on random pixels, on which an evaluation takes as long as on any others.
"""

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from _paired import out_option

import nelbo
from nelbo.data import from_array
from nelbo.models.folder import WEIGHTS, load
from nelbo.models.vdm import VDM
from nelbo.runtime.atomic import new_file
from nelbo.runtime.bundled import bundled_models
from nelbo.runtime.randomness import generator
from nelbo.train.config import TrainConfig
from nelbo.train.cost import forward_flop

N_IMAGES, N_ROUNDS = 128, 5


@dataclass(frozen=True)
class Quality:
    """One bundled model: its bound in bits per dimension, and what an evaluation of it costs."""

    model: str
    bpd: float
    standard_error: float
    n_parameters: int
    n_bytes: int
    gflop_per_image: float
    images_per_second: float


def measure(name: str, folder: Path) -> Quality:
    """Returns a bundled model's figures."""
    model = load(name)
    stated = json.loads((folder / "test.json").read_text())
    return Quality(
        model=name,
        bpd=stated["bpd"],
        standard_error=stated["standard_error"],
        n_parameters=sum(p.numel() for p in model.net.parameters()),
        n_bytes=(folder / WEIGHTS).stat().st_size,
        gflop_per_image=forward_flop(TrainConfig(model=model.config, n_images=1)) / 1e9,
        images_per_second=N_IMAGES / statistics.median(_seconds(model) for _ in range(N_ROUNDS)),
    )


def line(quality: Quality) -> str:
    """Returns a model's figures as a line of the table."""
    bound = f"{quality.bpd:.4f} ± {quality.standard_error:.4f}"
    return (
        f"{quality.model:<16}{bound:>18}{quality.n_parameters:>12}{quality.n_bytes:>12}"
        f"{quality.gflop_per_image:>9.3f}{quality.images_per_second:>10.1f}"
    )


def _seconds(model: VDM) -> float:
    channels, height, width = model.image_shape
    pixels = generator("benchmark pixels").integers(0, 256, (N_IMAGES, height, width, channels), dtype="uint8")
    started = time.perf_counter()
    nelbo.evaluate(model, from_array(pixels))
    return time.perf_counter() - started


if __name__ == "__main__":
    out = out_option(__doc__)
    results = [measure(name, folder) for name, folder in bundled_models().items()]
    print(f"bundled models, {torch.get_num_threads()} threads, medians of {N_ROUNDS} rounds")
    print(f"{'model':<16}{'bpd, test set':>18}{'parameters':>12}{'bytes':>12}{'GFLOP':>9}{'images/s':>10}")
    for result in results:
        print(line(result))
    if out is not None:
        with new_file(out) as temporary:
            temporary.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
