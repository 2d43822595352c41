"""Measures of samples against real images: each sees what the others miss, none of them is FID."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import nelbo
from nelbo.diffusion.decoder import to_unit
from nelbo.runtime.device import autocast, fastest_precision
from nelbo.runtime.randomness import generator, permutation

N_FEATURES, BATCH = 128, 128

_OPPONENT = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.5, -0.5, 0.0], [0.25, 0.25, -0.5]])  # Luma, red-green, yellow-blue.


class _Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.GroupNorm(8, n_in), nn.SiLU(), nn.Conv2d(n_in, n_out, 3, stride, 1))
        self.two = nn.Sequential(nn.GroupNorm(8, n_out), nn.SiLU(), nn.Conv2d(n_out, n_out, 3, 1, 1))
        self.skip = nn.Conv2d(n_in, n_out, 1, stride) if n_in != n_out or stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.two(self.one(x))


class Classifier(nn.Module):
    """A residual network whose features are the pooled last layer."""

    def __init__(self, n_channels: int, n_classes: int) -> None:
        super().__init__()
        widths = ((32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, N_FEATURES, 1))
        self.stem = nn.Conv2d(n_channels, 32, 3, padding=1)
        self.body = nn.Sequential(*(_Block(*width) for width in widths), nn.GroupNorm(8, N_FEATURES), nn.SiLU())
        self.head = nn.Linear(N_FEATURES, n_classes)

    def features(self, images: Tensor) -> Tensor:
        """Returns the features of 8-bit images, shape (b, 128)."""
        return self.body(self.stem(to_unit(images).contiguous(memory_format=torch.channels_last))).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of the classes."""
        return self.head(self.features(images))


def batches(n: int, epoch: int) -> Iterator[np.ndarray]:
    """Yields the positions of each batch of an epoch."""
    order = permutation(n, "classifier epoch", epoch)
    yield from (order[start : start + BATCH] for start in range(0, n - BATCH + 1, BATCH))


def _augmented(images: Tensor, epoch: int) -> Tensor:
    """Returns a batch shifted by up to four pixels, half of its images mirrored."""
    rng = generator("classifier augmentation", epoch, int(images[0].long().sum()))
    dy, dx = (int(shift) for shift in rng.integers(-4, 5, 2))
    padded = nn.functional.pad(images.float(), (4, 4, 4, 4), mode="reflect").to(torch.uint8)
    h, w = images.shape[-2:]
    shifted = padded[..., 4 + dy : 4 + dy + h, 4 + dx : 4 + dx + w]
    flips = torch.from_numpy(rng.random(len(images)) < 0.5)[:, None, None, None]
    return torch.where(flips, shifted.flip(-1), shifted)


def trained_classifier(data: nelbo.Images, epochs: int, device: torch.device, kept: Path) -> Classifier:
    """Returns a classifier trained on the labels of a data set, or the one that an earlier run kept in a file."""
    assert data.labels is not None, "the classifier needs labels"
    torch.manual_seed(0)
    net = Classifier(data.shape[0], int(data.labels.max()) + 1).to(device).to(memory_format=torch.channels_last)  # pyright: ignore
    if kept.is_file():
        net.load_state_dict(torch.load(kept))
        return net.eval()
    n_steps = epochs * (len(data) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=n_steps)
    with tqdm(total=n_steps, desc="classifier", disable=None) as bar:
        for epoch in range(epochs):
            for positions in batches(len(data), epoch):
                labels = torch.from_numpy(data.labels[positions]).to(device)
                images = _augmented(data.read(positions), epoch).to(device)
                with autocast(device, fastest_precision(device)):
                    loss = nn.functional.cross_entropy(net(images).float(), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                rate.step()
                bar.update()
    kept.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), kept)
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


def opponent(images: Tensor) -> Tensor:
    """Returns luma, red-green and yellow-blue of images in [0, 1], shape (n, 3, h, w); of grey ones luma alone."""
    x = images.double() / 255
    return x if x.shape[1] == 1 else torch.einsum("oc,nchw->nohw", _OPPONENT.double(), x)


def colours(images: Tensor) -> Tensor:
    """Returns the mean and the standard deviation of each opponent colour of each image."""
    y = opponent(images).flatten(2)
    return torch.cat([y.mean(2), y.std(2)], dim=1)


def colour_distance(real: Tensor, images: Tensor) -> float:
    """Returns the Frechet distance of images' colours, in units of the real images' own deviations."""
    one, other = colours(real), colours(images)
    scale = one.std(0)
    return frechet_distance(one / scale, other / scale)


def log_power(images: Tensor) -> Tensor:
    """Returns the log of the images' mean power at each radius of spatial frequency."""
    luma = opponent(images)[:, 0]
    power = torch.fft.fft2(luma - luma.mean((1, 2), keepdim=True)).abs().square().mean(0)
    h, w = power.shape
    fy, fx = torch.fft.fftfreq(h)[:, None] * h, torch.fft.fftfreq(w) * w
    radius = torch.sqrt(fy.square() + fx.square()).round().long()
    top = min(h, w) // 2
    return torch.stack([power[radius == r].mean().log() for r in range(1, top + 1)])


def spectrum_distance(real: Tensor, images: Tensor) -> float:
    """Returns the mean difference of the two log powers."""
    return (log_power(real) - log_power(images)).abs().mean().item()


def saturation(images: Tensor) -> float:
    """Returns the root mean square of the opponent colours other than luma, averaged over images."""
    y = opponent(images)[:, 1:]
    return y.square().mean((1, 2, 3)).sqrt().mean().item() if y.shape[1] else math.nan


def precision_and_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Returns how many samples lie among real images, and how many real images among samples, by feature.

    References:
        Improved Precision and Recall Metric for Assessing Generative Models (Kynkaanniemi et al., 2019).
        https://arxiv.org/abs/1904.06991
    """

    def covered(points: Tensor, reference: Tensor) -> float:
        radii = torch.cdist(reference, reference).kthvalue(k + 1, dim=1).values
        return (torch.cdist(points, reference) <= radii).any(1).double().mean().item()

    return covered(fake, real), covered(real, fake)
