"""A stand-in for the package of this name: what `Diffusion.from_pretrained` returns, over a small network."""

import numpy as np
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.temb, self.conv = nn.Linear(1, 3), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, t):
        return self.conv(x) + self.temb(t[:, None].float() / 1000)[:, :, None, None]


class Diffusion:
    def __init__(self, model_var_type):
        self.model_var_type = model_var_type
        self.alphas = 1 - np.linspace(1e-4, 0.02, 1000)
        self.num_timesteps = len(self.alphas)
        torch.manual_seed(0)
        self.model = Model()

    @classmethod
    def from_pretrained(cls, name):
        return cls({"cifar10": "fixedlarge"}[name.removeprefix("ema_")])
