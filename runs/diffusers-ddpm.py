"""Trains a small DDPM with diffusers' own classes and its own recipe: the third-party model that nelbo is tried on.

    python runs/diffusers-ddpm.py data/fashion-mnist-train.npz out/fashion-ddpm
    python runs/diffusers-ddpm.py data/cifar10-train.npz out/cifar10-ddpm
    python runs/diffusers-ddpm.py data/fashion-mnist-train.npz out/fashion-ddpm-range --learned-range
    nelbo eval out/fashion-ddpm --data data/fashion-mnist-test.npz

Images may be any that nelbo reads, say Debian's ``/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz``. The
recipe is that of diffusers' ``examples/unconditional_image_generation``: AdamW, a cosine schedule of the learning rate
after a warm-up, gradients clipped to norm 1, averaged weights, squared error of eps, 1,000 linear betas, pixels
v / 127.5 - 1. With ``--learned-range`` the network also writes its variances and the loss is the hybrid one of Nichol &
Dhariwal (2021), L_simple + 0.001 L_vlb (eq. 16), whose mean gets no gradient from L_vlb. The result is a pipeline
folder as diffusers saves it. Networks are small: real, not good.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm import tqdm

from nelbo.data.images import Images
from nelbo.data.open import open_images

VLB_WEIGHT = 0.001


def train(
    images: Path,
    out: Path,
    steps: int,
    batch: int,
    channels: list[int],
    learning_rate: float,
    learned_range: bool,
    seed: int,
) -> None:
    """Writes the pipeline folder."""
    torch.manual_seed(seed)
    data = open_images(images)
    scheduler = DDPMScheduler(variance_type="learned_range" if learned_range else "fixed_small")
    net = network(data.shape, channels, learned_range)
    average = EMAModel(net.parameters(), use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    optimiser = torch.optim.AdamW(net.parameters(), learning_rate, betas=(0.95, 0.999), weight_decay=1e-6)
    rate = get_cosine_schedule_with_warmup(optimiser, steps // 10, steps)
    bar = tqdm(batches(data, batch, steps), total=steps, unit="step", disable=None)
    losses = []
    for pixels in bar:
        value = loss(net, scheduler, pixels.float() / 127.5 - 1)
        value.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        rate.step()
        optimiser.zero_grad()
        average.step(net.parameters())
        losses.append(value.item())
        if len(losses) % 100 == 0:
            print(f"step {len(losses)} of {steps}: loss {sum(losses[-100:]) / 100:.4f}", flush=True)
    average.copy_to(net.parameters())
    DDPMPipeline(net.eval(), scheduler).save_pretrained(out)


def network(shape: tuple[int, int, int], channels: list[int], learned_range: bool) -> UNet2DModel:
    """Returns diffusers' U-Net, with attention at the coarsest level alone."""
    plain = len(channels) - 1
    return UNet2DModel(
        sample_size=shape[1:],
        in_channels=shape[0],
        out_channels=shape[0] * (2 if learned_range else 1),
        layers_per_block=1,
        block_out_channels=tuple(channels),
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
    )


def batches(data: Images, size: int, steps: int) -> Iterator[Tensor]:
    """Yields random batches, each epoch a permutation of the images."""
    order = torch.randperm(len(data)).tolist()
    for _ in range(steps):
        if len(order) < size:
            order = torch.randperm(len(data)).tolist()
        picked, order = order[:size], order[size:]
        yield data.read(picked)


def loss(net: UNet2DModel, scheduler: DDPMScheduler, x: Tensor) -> Tensor:
    """Returns L_simple, or the hybrid loss of a network that writes its variances."""
    n_steps = len(scheduler.betas)
    t = torch.randint(n_steps, (len(x),))
    eps = torch.randn_like(x)
    z = scheduler.add_noise(x, eps, t)  # pyright: ignore[reportArgumentType]
    output = net(z, t).sample
    eps_hat, rest = output[:, : x.shape[1]], output[:, x.shape[1] :]
    simple = torch.nn.functional.mse_loss(eps_hat, eps)
    if rest.shape[1] == 0:
        return simple
    return simple + VLB_WEIGHT * n_steps * vlb_term(scheduler, x, z, eps_hat.detach(), rest, t).mean()


def vlb_term(scheduler: DDPMScheduler, x: Tensor, z: Tensor, eps_hat: Tensor, rest: Tensor, t: Tensor) -> Tensor:
    """Returns the term of L_vlb at each timestep in bits per dimension, per pixel.

    Above timestep 0 it is the divergence of two Gaussians, at 0 the code length of the pixel.
    """
    betas = scheduler.betas.double()
    product = (1 - betas).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), product[:-1]])
    tilde = betas * (1 - before) / (1 - product)
    tilde[0] = tilde[1]  # That of timestep 0 is no variance: it is 0.

    def at(values: Tensor) -> Tensor:
        return values.float()[t][:, None, None, None]

    x_hat = ((z - at((1 - product).sqrt()) * eps_hat) / at(product.sqrt())).clamp(-1, 1)
    of_x, of_z = at(before.sqrt() * betas / (1 - product)), at((1 - betas).sqrt() * (1 - before) / (1 - product))
    nu = (rest + 1) / 2
    log_variance = nu * at(betas.log()) + (1 - nu) * at(tilde.log())
    apart = (of_x * (x - x_hat)).square()
    ratio = at(tilde.log()) - log_variance
    divergence = 0.5 * (torch.expm1(ratio) - ratio + apart * torch.exp(-log_variance))
    length = -log_mass(x, of_x * x_hat + of_z * z, torch.exp(0.5 * log_variance))
    return torch.where((t == 0)[:, None, None, None], length, divergence) / math.log(2)


def log_mass(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Returns the log-mass of a Gaussian on the cell of each pixel value, the outermost cells open."""
    upper, lower = (x + 1 / 255 - mean) / std, (x - 1 / 255 - mean) / std
    above = torch.where(x > 0.999, 1.0, torch.special.ndtr(upper))
    below = torch.where(x < -0.999, 0.0, torch.special.ndtr(lower))
    return torch.log((above - below).clamp(min=1e-12))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="theirs is 1e-4, for longer runs")
    parser.add_argument("--learned-range", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    train(**vars(parser.parse_args()))
