"""Writes the mean and the spectrum of a bundled model's training images beside its weights.

python runs/moments.py cifar10-small --data data/cifar10-train.npz
"""

import argparse
from pathlib import Path

import nelbo
from nelbo.models.moments import MOMENTS, image_moments, save_moments
from nelbo.runtime.bundled import bundled_models


def main(name: str, data: Path) -> None:
    """Writes moments.safetensors."""
    path = bundled_models()[name] / MOMENTS
    moments = image_moments(nelbo.open_images(data))
    save_moments(moments, path)
    print(f"{path}: {moments.n_blocks} blocks, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    main(arguments.model, arguments.data)
