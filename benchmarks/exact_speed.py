"""Images a second of one network evaluation of ``cifar10-small``: plain float32 against exact integers, in one run."""

from collections.abc import Callable

import torch
from _paired import compare, out_option

import nelbo
from nelbo.codec.exact.freeze import choose_images, freeze
from nelbo.codec.exact.frozen import FrozenModel

GAMMA = -3.0


def paths(model: nelbo.DiffusionModel, frozen: FrozenModel, n_images: int) -> dict[str, Callable[[], object]]:
    """Returns what is compared, by name, for one batch of latents."""
    z = torch.randn((n_images, *model.image_shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fixed = (z * 2**18).round()
    latents, gammas = z.float(), torch.full((n_images,), GAMMA, dtype=torch.float64)

    @torch.no_grad()
    def floating() -> object:
        return model.denoise(latents, gammas)

    executors = {name: FrozenModel(frozen.header, frozen.tensors, executor=name) for name in ("native", "reference")}
    exact = {f"exact, {name}": lambda run=run: run.result(fixed, GAMMA) for name, run in executors.items()}
    return {"plain float32": floating, **exact}


if __name__ == "__main__":
    out = out_option(__doc__)
    model = nelbo.load("cifar10-small")
    frozen = freeze(model, choose_images(model, None, 4), max_cost_bpd=1.0)
    for n_images in (1, 32):
        place = None if out is None else out.with_stem(f"{out.stem}-{n_images}")
        compare(f"network evaluation, batch {n_images}", n_images, paths(model, frozen, n_images), rounds=10, out=place)
