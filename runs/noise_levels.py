r"""Prints a table of gammas that spends training's noise levels where a model's error is.

    python runs/noise_levels.py cifar10-small data/cifar10-train.npz

The bound in continuous time depends on a noise schedule's ends alone (Variational Diffusion Models, eq. 18), so its
shape is free to make the estimate less noisy. Where times are drawn evenly, gamma has the density 1 / gamma'(t), and
the table gives it

.. math:: p(\gamma) \propto \mathrm{mse}(\gamma) + f

with the mean squared error of eps_hat per dimension. With f = 0 every time would weigh the same; f keeps the weights
of the rarely drawn levels, ``gamma' = (mean + f) / (mse + f)`` in units of the line's, from growing large.
"""

import argparse
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

import nelbo
from nelbo.diffusion.bound import squared_error, to_unit
from nelbo.models.interface import DiffusionModel
from nelbo.runtime.randomness import normals

N_GAMMAS, N_IMAGES, N_CELLS, FLOOR = 75, 64, 32, 0.1


@torch.no_grad()
def mean_squared_errors(
    model: DiffusionModel, images: nelbo.Images, gammas: Float[Tensor, " g"]
) -> Float[Tensor, " g"]:
    """Returns the mean squared error of eps_hat per dimension at each gamma, over up to 64 evenly spaced images."""
    indices = range(0, len(images), max(1, len(images) // N_IMAGES))[:N_IMAGES]
    x = to_unit(images.read(indices))
    eps = normals(model.image_shape, indices, "noise levels")
    errors = [squared_error(model.given(), x, eps, gamma.expand(len(x))).mean() for gamma in gammas]
    return torch.stack(errors) / model.n_dims


def even_shares(gammas: Float[Tensor, " g"], density: Float[Tensor, " g"], n_cells: int) -> Float[Tensor, " n"]:
    """Returns the gammas between which a piecewise linear density has equal shares, both ends included."""
    fine = torch.linspace(gammas[0].item(), gammas[-1].item(), 20_001, dtype=torch.float64)
    cell = torch.searchsorted(gammas, fine, right=True).clamp(1, len(gammas) - 1) - 1
    weight = (fine - gammas[cell]) / (gammas[cell + 1] - gammas[cell])
    values = torch.lerp(density[cell], density[cell + 1], weight)
    shares = torch.cat([torch.zeros(1, dtype=torch.float64), ((values[1:] + values[:-1]) / 2).cumsum(0)])
    places = torch.searchsorted(shares / shares[-1], torch.linspace(0, 1, n_cells + 1, dtype=torch.float64))
    return fine[places.clamp(max=len(fine) - 1)]


def main(model: str, data: Path) -> None:
    """Prints the errors and the table."""
    loaded, images = nelbo.load(model), nelbo.open_images(data)
    ends = loaded.noise_schedule.grid(1)
    gammas = torch.linspace(ends[0].item(), ends[1].item(), N_GAMMAS, dtype=torch.float64)
    errors = mean_squared_errors(loaded, images, gammas)
    for gamma, error in zip(gammas[::5].tolist(), errors[::5].tolist(), strict=True):
        print(f"{gamma:7.2f} {error:7.4f}")
    print([round(gamma, 2) for gamma in even_shares(gammas, errors + FLOOR, N_CELLS).tolist()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    main(**vars(parser.parse_args()))
