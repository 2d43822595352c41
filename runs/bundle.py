"""Turns a finished run into a bundled model: half-precision weights, measured as they are on a whole test set.

    python runs/bundle.py out/cifar10-small data/cifar10-test.npz src/nelbo/assets/cifar10-small --straight

Writes the model folder and, in it, ``test.json`` with the bound in continuous time, one pass, float32. ``--straight``
gives the model a noise schedule linear in t between the ends of the one it was trained with.
"""

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from nelbo.data.open import open_images
from nelbo.diffusion.noise_schedule import Linear
from nelbo.evaluation import Evaluation, evaluate
from nelbo.models.folder import load, save
from nelbo.models.noise_schedule_config import settings_of
from nelbo.models.vdm import VDM


def bundle(run: Path, test: Path, asset: Path, straight: bool) -> Evaluation:
    """Writes the asset and returns its test bound."""
    card = (run / "model" / "README.md").read_text()
    trained = load(run / "model")
    save(straightened(trained) if straight else trained, asset, card, torch.float16)
    model, images = load(asset), open_images(test)
    with tqdm(total=len(images), unit="img", disable=None) as bar:
        result = evaluate(model, images, precision="float32", progress=bar.update)
    save(model, asset, card + result_section(result, test.stem), torch.float16)
    result.save(asset / "test.json")
    return result


def straightened(model: VDM) -> VDM:
    """Returns the model with gamma linear in t, which changes nothing of its denoiser or its continuous-time bound."""
    gamma_0, gamma_1 = model.noise_schedule.grid(1).tolist()
    line = settings_of(Linear)(gamma_0=gamma_0, gamma_1=gamma_1)
    result = VDM(model.config.model_copy(update={"noise_schedule": line}))
    result.net.load_state_dict(model.net.state_dict())
    return result.eval()


def result_section(result: Evaluation, name: str) -> str:
    """Returns the part of the card that states the bundled model's result."""
    return (
        f"\n## Result\n\nWith the bundled float16 weights, on all of `{name}` ({result.n_images} images, none used for "
        f"training or for choosing between models), continuous time, one pass in float32, seed {result.seed}:\n\n"
        f"**{result.bpd:.4f} ± {result.standard_error:.4f} bits per dimension** "
        f"(prior {result.prior.bpd:.4f}, reconstruction {result.reconstruction.bpd:.4f}, "
        f"diffusion {result.diffusion.bpd:.4f}).\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for argument in ("run", "test", "asset"):
        parser.add_argument(argument, type=Path)
    parser.add_argument("--straight", action="store_true")
    print(bundle(**vars(parser.parse_args())))
