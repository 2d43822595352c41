"""Compares ways to train ``cifar10-small`` at equal compute: networks, optimisers, noise levels, by what changes.

    OMP_NUM_THREADS=1 python runs/recipe.py --data data/cifar10-train.npz --out out/recipe.json --seconds 180

The base is what the bundled model before this one was trained with at last. Each run gets the number of images that its
step's processor time, measured in turn with all others, allows. Warm-up and average are shares of the run. What is
compared is the bound in continuous time of 1,000 images held out from training, with the same noise for all, of the
averaged weights and of the last ones. The paired error is that of the difference from the base over images and noise;
what another seed changes is the difference of ``another seed``. Runs that the output file holds already, of the same
settings, are kept: interrupt it at any time. Short runs tell what learns sooner.
"""

import argparse
import copy
import json
import math
import statistics
import time
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

import nelbo
from nelbo.diffusion.bound import bound
from nelbo.diffusion.draws import evaluation_draws
from nelbo.diffusion.noise_schedule import Table
from nelbo.models.vdm import VDM
from nelbo.runtime.atomic import new_file
from nelbo.runtime.device import autocast
from nelbo.runtime.processes import World
from nelbo.train.config import TrainConfig, override
from nelbo.train.inputs import check_images, hold_out
from nelbo.train.loop import Trainer
from nelbo.train.presets import preset

BASE = (
    *("batch_size=32", "learning_rate=1.5e-3", "ema_rate=0.99"),
    *("model.prediction=v", "model.net.heads=[0, 0, 4]"),
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "base": (),
    "another seed": ("seed=1",),
    "AdamW at 1e-3": ("optimizer=adamw", "learning_rate=1e-3"),
    "eps prediction": ("model.prediction=eps",),
    "gamma drawn evenly": ('model.noise_schedule={"type": "linear"}',),
    "gamma drawn adaptively": ('model.noise_schedule={"type": "linear"}', "gamma_sampling=adaptive"),
    "learned schedule": ('model.noise_schedule={"type": "learned", "learned_ends": false}', "interior_rate=20"),
    "learned ends": ('model.noise_schedule={"type": "linear", "learned": true}',),
    "no Fourier features": ("model.net.fourier=[]",),
    "no attention": ("model.net.heads=[0, 0, 0]",),
    "stem of patches": (
        "model.net.patch=2",
        "model.net.channels=[96, 128]",
        "model.net.heads=[0, 4]",
        "model.net.n_blocks_down=[2, 1]",
        "model.net.n_blocks_up=[3, 2]",
    ),
    "fewer blocks": ("model.net.n_blocks_down=[1, 1, 1]", "model.net.n_blocks_up=[2, 2, 1]"),
    "blocks at half resolution": ("model.net.n_blocks_down=[1, 3, 1]", "model.net.n_blocks_up=[2, 4, 1]"),
    "wider coarse stages": ("model.net.channels=[32, 96, 192]",),
    "wider fine stage": ("model.net.channels=[48, 64, 128]",),
    "batch of 64": ("batch_size=64",),
    "half the learning rate": ("learning_rate=7.5e-4",),
    "twice the learning rate": ("learning_rate=3e-3",),
    "cosine to zero": ("decay=cosine",),
    "no flips": ("flip=false",),
    "flips the network is told of": ("flip=false", 'model.augment=["flip"]'),
    "all augmentations, told": ("flip=false", 'model.augment=["flip", "rotation", "channels"]'),
}
EPS_FAST = ("model.prediction=eps", "learning_rate=3e-3")
NO_ATTENTION, FEWER_BLOCKS = VARIANTS["no attention"], VARIANTS["fewer blocks"]
VARIANTS |= {
    "eps, 3e-3": EPS_FAST,
    "eps, 6e-3": ("model.prediction=eps", "learning_rate=6e-3"),
    "eps, 3e-3, no attention": (*EPS_FAST, *NO_ATTENTION),
    "eps, 3e-3, fewer blocks": (*EPS_FAST, *FEWER_BLOCKS),
    "eps, 3e-3, fewer blocks, no attention": (*EPS_FAST, *FEWER_BLOCKS, *NO_ATTENTION),
}
N_TIMED, WARMUP_SHARE = 6, 0.05


def main(data: nelbo.Images, out: Path, seconds: float, names: list[str]) -> str:
    """Writes a result for each variant as it ends and returns the table."""
    chosen = {name: override(preset("cifar10-small"), [*BASE, *VARIANTS[name]]) for name in ["base", *names]}
    setting = {"seconds": seconds, "data": Path(data.name).name}
    keys = {name: {"config": config.model_dump(mode="json"), **setting} for name, config in chosen.items()}
    results = json.loads(out.read_text()) if out.exists() else {}
    left = {name: config for name, config in chosen.items() if results.get(name, {}).get("of") != keys[name]}
    check_images(chosen["base"], data)
    for name, (config, cost) in in_budget(left, data, seconds).items():
        results[name] = {"of": keys[name], **measured(config, data, name), "seconds_an_image": cost}
        with new_file(out) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n")
    return as_text({name: results[name] for name in chosen})


def in_budget(
    configs: dict[str, TrainConfig], data: nelbo.Images, seconds: float
) -> dict[str, tuple[TrainConfig, float]]:
    """Returns runs as long as some processor seconds allow, and the seconds an image takes, timed in turn."""
    trainers = {name: Trainer(config, data, first()) for name, config in configs.items()}
    spent: dict[str, list[float]] = {name: [] for name in configs}
    for _ in tqdm(range(1 + N_TIMED), desc="timing", disable=None):
        for name, trainer in trainers.items():
            started = time.process_time()
            trainer.run_step()
            spent[name].append((time.process_time() - started) / configs[name].batch_size)
    costs = {name: statistics.median(times[1:]) for name, times in spent.items()}
    return {name: (shortened(config, round(seconds / costs[name])), costs[name]) for name, config in configs.items()}


def shortened(config: TrainConfig, n_images: int) -> TrainConfig:
    """Returns a run of so many images, its warm-up a share of them."""
    return override(config, [f"n_images={n_images}", f"warmup_images={round(WARMUP_SHARE * n_images)}"])


def measured(config: TrainConfig, data: nelbo.Images, name: str) -> dict[str, object]:
    """Trains a run and returns its held-out bound image by image, of the averaged and of the last weights."""
    to_train, held_out = hold_out(data, config.n_held_out)
    assert held_out is not None
    trainer, started = Trainer(config, to_train, first()), time.process_time()
    for _ in tqdm(range(config.n_updates), desc=name, disable=None):
        trainer.run_step()
    spent = time.process_time() - started
    images = held_out.read(range(len(held_out)))
    bounds = {
        which: bounds_of(m, images, trainer)
        for which, m in (("averaged", trainer.average.model), ("last", trainer.model))
    }
    n_parameters = sum(p.numel() for p in trainer.model.net.parameters())
    return {"n_images": config.n_images, "seconds": spent, "n_parameters": n_parameters, **bounds}


@torch.no_grad()
def bounds_of(model: VDM, images: Tensor, trainer: Trainer, n_passes: int = 2) -> list[float]:
    """Returns an estimate of the bound of each image in bits per dimension, at noise levels where the error is."""
    model = copy.deepcopy(model).eval()
    model.noise_schedule = between(model.noise_schedule.grid(1))
    total = torch.zeros(len(images), dtype=torch.float64)
    for part in torch.arange(len(images)).split(100):
        for which in range(n_passes):
            draws = evaluation_draws(part.tolist(), model.image_shape, 0, n_passes, which)
            with autocast(trainer.world.device, trainer.precision):
                total[part] += bound(model.given(None), images[part], draws).bpd.double() / n_passes
    return total.tolist()


def between(ends: Float[Tensor, " 2"]) -> Table:
    """Returns the preset's noise levels, stretched onto other ends: the bound depends on a schedule's ends alone."""
    gammas = preset("cifar10-small").model.noise_schedule.build().state_dict()["gammas"]
    share = (gammas - gammas[0]) / (gammas[-1] - gammas[0])
    first_end, last_end = ends.tolist()  # In float64.
    return Table((first_end + (last_end - first_end) * share).tolist())


def first() -> World:
    """Returns the only process, on the CPU."""
    return World(0, 1, torch.device("cpu"))


def as_text(results: dict[str, dict]) -> str:
    """Returns the table: the bound of each run, its difference from the base and the paired error."""
    base = torch.tensor(results["base"]["averaged"])
    lines = [f"{'':<40}{'parameters':>11}{'images':>9}{'averaged':>10}{'last':>9}   difference from the base, averaged"]
    for name, result in results.items():
        values = torch.tensor(result["averaged"])
        difference = values - base
        error = (difference.std() / math.sqrt(len(difference))).item()
        lines.append(
            f"{name:<40}{result['n_parameters']:>11,}{result['n_images']:>9,}{values.mean():>10.4f}"
            f"{statistics.fmean(result['last']):>9.4f}   {difference.mean():+.4f} ± {error:.4f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/cifar10-train.npz"))
    parser.add_argument("--out", type=Path, default=Path("out/recipe.json"))
    parser.add_argument("--seconds", type=float, default=600, help="processor seconds of each run")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), metavar="VARIANT", help="these beside the base")
    a = parser.parse_args()
    chosen_names = [name for name in (VARIANTS if a.only is None else a.only) if name != "base"]
    print(main(nelbo.open_images(a.data), a.out, a.seconds, chosen_names))
