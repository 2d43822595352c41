"""A stand-in for the package of this name: the same classes, arguments and buffers, over a network of a few weights."""

from collections import namedtuple

import torch
from torch import nn

Prediction = namedtuple("Prediction", ["pred_noise", "pred_x_start"])


class Unet(nn.Module):
    def __init__(self, dim, dim_mults=(1, 2), channels=3):
        super().__init__()
        self.channels = channels
        self.time_mlp = nn.Sequential(nn.Linear(1, dim), nn.GELU(), nn.Linear(dim, dim))
        self.init_conv = nn.Conv2d(channels, dim, 7, padding=3)
        self.final_conv = nn.Conv2d(dim, channels, 1)

    def forward(self, x, time, x_self_cond=None):
        t = self.time_mlp(time[:, None].float() / 1000)
        return self.final_conv(torch.nn.functional.silu(self.init_conv(x) + t[:, :, None, None]))


class GaussianDiffusion(nn.Module):
    alphas_cumprod: torch.Tensor

    def __init__(self, model, *, image_size, timesteps=1000, objective="pred_v"):
        super().__init__()
        self.model, self.image_size, self.objective = model, image_size, objective
        betas = torch.linspace(1e-4, 0.02, timesteps, dtype=torch.float64)
        bars = torch.cumprod(1 - betas, dim=0)
        for name, value in {"betas": betas, "alphas_cumprod": bars}.items():
            self.register_buffer(name, value.float())

    def model_predictions(self, x, t):
        """Returns the noise and the clipped image that the network's output means."""
        output = self.model(x, t, None)
        alpha, sigma = (
            value.sqrt()[t].reshape(-1, 1, 1, 1) for value in (self.alphas_cumprod, 1 - self.alphas_cumprod)
        )
        start = {"pred_v": alpha * x - sigma * output, "pred_noise": (x - sigma * output) / alpha}[self.objective]
        start = start.clamp(-1, 1)
        return Prediction((x - alpha * start) / sigma, start)
