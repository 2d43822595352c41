"""Stand-ins for networks that are kept whole in files: one of timesteps, one of EDM, one of flow matching."""

import torch
from torch import nn


class Timed(nn.Module):
    """Takes (x, t), with t a number in [0, 1)."""

    def __init__(self):
        super().__init__()
        self.conv, self.time = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(1, 3)

    def forward(self, x, t):
        return self.conv(x) + self.time(t[:, None])[:, :, None, None]


class Preconditioned(nn.Module):
    """D(x; sigma) of Karras et al. (2022), eq. 7 and table 1."""

    def __init__(self, sigma_data=0.5):
        super().__init__()
        self.sigma_data, self.model = sigma_data, Timed()

    def forward(self, x, sigma, class_labels=None):
        sigma = sigma.to(torch.float32).reshape(-1, 1, 1, 1)
        total = sigma**2 + self.sigma_data**2
        output = self.model(x / total.sqrt(), sigma.flatten().log() / 4)
        if class_labels is not None:
            output = output + 0.01 * class_labels.argmax(1)[:, None, None, None]
        return self.sigma_data**2 / total * x + sigma * self.sigma_data / total.sqrt() * output


class Velocity(nn.Module):
    """v(t, x) = data - noise of latents (1 - t) noise + t data."""

    def __init__(self):
        super().__init__()
        self.net = Timed()

    def forward(self, t, x):
        return self.net(x, t)
