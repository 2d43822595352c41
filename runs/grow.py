"""Gives a model more residual blocks or Fourier features without changing what it computes.

    python runs/grow.py cifar10-small out/grown --set net.n_blocks_down=[2,1,1] --set net.n_blocks_up=[3,2,1]

New blocks come after a stage's own and start as the identity; the first layer reads new features with weight zero.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from nelbo.errors import NelboError
from nelbo.model import VDM
from nelbo.model_config import ModelConfig
from nelbo.nets.fourier import Stem
from nelbo.pretrained import load, save
from nelbo.train.config import TrainConfig, override

SEED = 0


def grow(model: VDM, config: ModelConfig) -> VDM:
    """Returns a model of a larger configuration that computes what a smaller one does.

    Args:
        model: The smaller model.
        config: The same but for more blocks in any stage or more Fourier features.

    Raises:
        NelboError: If some weights have no place in the larger network.
    """
    torch.manual_seed(SEED)
    larger = VDM(config)
    own, old = larger.net.state_dict(), model.net.state_dict()
    for name, weight in old.items():
        if name not in own:
            raise NelboError(f"the larger network has no {name}: only blocks and Fourier features can be added")
        own[name] = weight if weight.shape == own[name].shape else spread(weight, model.net, larger.net, name)
    larger.net.load_state_dict(own)
    return larger.eval()


def spread(kernel: Tensor, net: nn.Module, larger: nn.Module, name: str) -> Tensor:
    """Returns the first layer's kernel with zeros for the features that the smaller network lacks.

    Raises:
        NelboError: If it is another layer, or the larger network lacks a feature of the smaller one's.
    """
    stem, larger_stem = net.get_submodule("conv_in"), larger.get_submodule("conv_in")
    if not (isinstance(stem, Stem) and isinstance(larger_stem, Stem) and name == "conv_in.weight"):
        raise NelboError(f"{name} has another shape in the larger network: only blocks and features can be added")
    result = torch.zeros_like(larger_stem.weight)
    places = {feature: place for place, feature in enumerate(features(larger_stem))}
    for place, feature in enumerate(features(stem)):
        if feature not in places:
            raise NelboError(f"the larger network lacks the Fourier features {feature[0]}: add to those there are")
        result[:, places[feature]] = kernel[:, place]
    return result


def features(stem: Stem) -> list[tuple[str, int, int]]:
    """Returns what each input of a first layer is, in the order of `nelbo.nets.fourier.fourier_features`."""
    n_folded = stem.patch**2
    n_channels = stem.in_channels // ((1 + 2 * len(stem.fourier)) * n_folded)
    pixels = [("z", channel, -1) for channel in range(n_channels)]
    waves = [(w, c, n) for w in ("sin", "cos") for c in range(n_channels) for n in stem.fourier]
    return [(what, c * n_folded + k, n) for what, c, n in pixels + waves for k in range(n_folded)]


def main(model: str, out: Path, settings: list[str]) -> None:
    """Writes the grown model as a model folder."""
    small = load(model)
    config = override(TrainConfig(model=small.config, n_images=1), [f"model.{setting}" for setting in settings]).model
    card = f"# {model}, grown\n\n`runs/grow.py {model}` with {' '.join(settings)}: computes what {model} does.\n"
    save(grow(small, config), out, card)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="FIELD=VALUE")
    main(**vars(parser.parse_args()))
