"""Sample quality at few steps: even against optimal schedules, as grids and as a Frechet distance. NOT FID.

    python runs/sample_quality.py cifar10-small --train cifar10-train.npz --test cifar10-test.npz --out out/quality

The distance is between Gaussians fitted to features of real test images and of samples. The features are the pooled
last layer (128 numbers) of a small classifier that this script trains on CIFAR-10's labels for a few epochs; the
published FID uses another network and 50,000 samples, so these numbers compare with each other only. What the same
number of real training images scores is printed first: the floor.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import nelbo
from nelbo.data.pictures import save_grid
from nelbo.diffusion.decoder import to_unit
from nelbo.runtime.atomic import new_file
from nelbo.runtime.bundled import bundled_tables
from nelbo.runtime.device import autocast, choose_device, fastest_precision
from nelbo.runtime.randomness import permutation
from nelbo.time_schedule.error_table import load_table
from nelbo.time_schedule.schedule import plain_schedule

BUDGETS = (8, 16, 32)
N_FEATURES, BATCH = 128, 128


class Classifier(nn.Module):
    """Six convolutions with group norms; the features are their mean over the image."""

    def __init__(self, n_channels: int, n_classes: int) -> None:
        super().__init__()
        widths = ((n_channels, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, N_FEATURES, 1))
        layers: list[nn.Module] = []
        for n_in, n_out, stride in widths:
            layers += [nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1), nn.GroupNorm(8, n_out), nn.SiLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(N_FEATURES, n_classes)

    def features(self, images: Tensor) -> Tensor:
        """Returns the features of 8-bit images, shape (b, 128)."""
        return self.body(to_unit(images)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of the classes."""
        return self.head(self.features(images))


def batches(n: int, epoch: int) -> Iterator[np.ndarray]:
    """Yields the positions of each batch of an epoch."""
    order = permutation(n, "classifier epoch", epoch)
    yield from (order[start : start + BATCH] for start in range(0, n - BATCH + 1, BATCH))


def train_classifier(data: nelbo.Images, epochs: int, device: torch.device) -> Classifier:
    """Returns a classifier trained on the labels of a data set."""
    assert data.labels is not None, "the classifier needs labels"
    torch.manual_seed(0)
    net = Classifier(data.shape[0], int(data.labels.max()) + 1).to(device)
    n_steps = epochs * (len(data) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=n_steps)
    with tqdm(total=n_steps, desc="classifier", disable=None) as bar:
        for epoch in range(epochs):
            for positions in batches(len(data), epoch):
                labels = torch.from_numpy(data.labels[positions]).to(device)
                with autocast(device, fastest_precision(device)):
                    loss = nn.functional.cross_entropy(net(data.read(positions).to(device)).float(), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                rate.step()
                bar.update()
    return net.eval()


@torch.no_grad()
def features_of(net: Classifier, images: Tensor, device: torch.device) -> Tensor:
    """Returns the features of many images in float64."""
    return torch.cat([net.features(part.to(device)).double().cpu() for part in images.split(500)])


def frechet_distance(one: Tensor, other: Tensor) -> float:
    r"""Returns :math:`|m_1 - m_2|^2 + \mathrm{tr}(S_1 + S_2 - 2 (S_1^{1/2} S_2 S_1^{1/2})^{1/2})` of two samples."""
    covariances = one.T.cov(), other.T.cov()
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    trace = covariances[0].trace() + covariances[1].trace() - 2 * cross
    return ((one.mean(0) - other.mean(0)).square().sum() + trace).item()


def main() -> None:
    """Trains the classifier, samples under each schedule, prints the distances."""
    options = parse()
    device = choose_device("auto")
    train, test = nelbo.open_images(options.train), nelbo.open_images(options.test)
    net = train_classifier(train, options.epochs, device)
    pixels = test.read(range(len(test)))
    assert test.labels is not None
    with torch.no_grad():
        guesses = torch.cat([net(part.to(device)).argmax(1).cpu() for part in pixels.split(500)])
    accuracy = (guesses == torch.from_numpy(test.labels)).double().mean().item()
    print(f"classifier: {accuracy:.1%} of test images right after {options.epochs} epochs")
    real = features_of(net, pixels, device)
    chosen = permutation(len(train), "real images of the floor", 0)[: options.samples]
    results = {"real training images": frechet_distance(real, features_of(net, train.read(chosen), device))}
    print(f"{'real training images':<28} {results['real training images']:8.3f}")
    model, table = nelbo.load(options.model, device), load_table(bundled_tables()[options.model])
    for budget in BUDGETS:
        schedules = {
            "even, posterior": plain_schedule(model, budget),
            "optimal, posterior": nelbo.optimal_schedules(table, [budget], "posterior")[budget],
            "optimal, spectral": nelbo.optimal_schedules(table, [budget], "spectral")[budget],
        }
        for name, schedule in schedules.items():
            images = nelbo.sample(model, schedule, range(options.samples))
            label = f"{name}, K = {budget}"
            results[label] = frechet_distance(real, features_of(net, images, device))
            print(f"{label:<28} {results[label]:8.3f}", flush=True)
            save_grid(images[:64], options.out / f"{name.replace(', ', '-')}-{budget}.png")
    with new_file(options.out / "results.json") as temporary:
        content = {"samples": options.samples, "accuracy": accuracy, "distances": results}
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """Returns the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
