"""Ready-made training runs, one table: the bundled models', and the paper's as published.

The published runs have the networks, batches and lengths of the paper's appendix B and the optimiser of the official
configurations: AdamW at 2e-4 with betas (0.9, 0.99) and weight decay 0.01, no clipping of gradients, an average of rate
0.9999, gamma from -13.3 to 5, a line with learned ends, or the learned network where the official configuration of the
paper's run (``cifar10_aug_paper.py``) has one.

``cifar10-aug`` differs from the official code in three ways. That code mirrors with probability 1/2, rotates with
probability 1/2 by 90, 180 or 270 degrees, and gives the network one flag, which says whether the image was changed; the
preset draws mirrorings, rotations and orders of channels evenly and gives the network the code of each. Its length is
the paper's, 2 million updates; the configuration has a limit of 100 million.
"""

from nelbo.diffusion.noise_schedule import Learned, Linear, Table
from nelbo.errors import NelboError
from nelbo.models.config import (
    ModelConfig,
    UNetConfig,
    UNetMultiscaleConfig,
)
from nelbo.models.noise_schedule_config import NoiseScheduleConfig, settings_of
from nelbo.train.config import TrainConfig

_LEARNED_ENDS = settings_of(Linear)(learned=True)

# Where the error of an earlier cifar10-small was, by runs/noise_levels.py: noise levels drawn there make the gradient
# less noisy and change nothing else, for the bound depends on the ends alone.
_WHERE_THE_ERROR_IS = settings_of(Table)(
    gammas=(
        *(-13.3, -12.58, -12.21, -11.92, -11.67, -11.43, -11.19, -10.94, -10.7, -10.44, -10.18, -9.91, -9.64, -9.35),
        *(-9.05, -8.74, -8.42, -8.09, -7.74, -7.36, -6.97, -6.54, -6.08, -5.58, -5.02, -4.38, -3.66, -2.8, -1.76),
        *(-0.49, 1.08, 2.95, 5.0),
    )
)

# The same for photographs reduced at random, where cifar10-small errs on 32x32 crops of photo-small's.
_WHERE_PHOTOGRAPHS_ERR = settings_of(Table)(
    gammas=(
        *(-13.3, -12.66, -12.32, -12.05, -11.82, -11.61, -11.4, -11.19, -10.99, -10.77, -10.55, -10.32, -10.09, -9.84),
        *(-9.59, -9.32, -9.04, -8.74, -8.42, -8.07, -7.7, -7.28, -6.82, -6.3, -5.7, -5.0, -4.15, -3.12, -1.86, -0.36),
        *(1.33, 3.14, 5.0),
    )
)

_DOWN_SAMPLING = UNetMultiscaleConfig(n_blocks_down=(2, 2, 1), n_blocks_up=(3, 3, 1), heads=(0, 0, 0))


def _published(
    size: int,
    net: UNetConfig,
    batch_size: int,
    n_updates: int,
    is_augmented: bool = False,
    noise_schedule: NoiseScheduleConfig = _LEARNED_ENDS,
) -> TrainConfig:
    """Returns a run of the paper on RGB images."""
    return TrainConfig(
        model=ModelConfig(
            image_shape=(3, size, size),
            net=net,
            noise_schedule=noise_schedule,
            augment=("flip", "rotation", "channels") if is_augmented else (),
        ),
        batch_size=batch_size,
        n_images=batch_size * n_updates,
        warmup_images=100 * batch_size,
        clip_norm=None,
    )


PRESETS: dict[str, TrainConfig] = {
    "cifar10-small": TrainConfig(
        model=ModelConfig(
            net=_DOWN_SAMPLING,
            noise_schedule=_WHERE_THE_ERROR_IS,
        ),
        n_images=1_600_000,
        batch_size=64,
        optimizer="muon",
        learning_rate=4e-3,
        decay="linear",
        warmup_images=12_800,
        weight_decay=0.0,
        ema_rate=0.999,
        flip=True,
        n_held_out=1_000,
    ),
    # At a constant rate, to be stopped at any time; runs/photo-small.sh then fine-tunes it along a line to zero.
    "photo-small": TrainConfig(
        model=ModelConfig(image_shape=(3, 64, 64), net=_DOWN_SAMPLING, noise_schedule=_WHERE_PHOTOGRAPHS_ERR),
        n_images=2_000_000,
        batch_size=16,
        optimizer="muon",
        learning_rate=3e-3,
        decay="constant",
        warmup_images=3_200,
        weight_decay=0.0,
        ema_rate=0.999,
        flip=True,
    ),
    "mnist-tiny": TrainConfig(
        model=ModelConfig(
            image_shape=(1, 28, 28),
            net=UNetMultiscaleConfig(channels=(24, 48, 64), heads=(0, 0, 0), n_cond=128),
            prediction="v",
        ),
        n_images=208_000,
        batch_size=32,
        learning_rate=2e-3,
        decay="cosine",
        warmup_images=3_200,
        ema_rate=0.999,
        n_held_out=1_000,
    ),
    "cifar10": _published(32, UNetConfig(), 128, 10_000_000),
    "cifar10-aug": _published(
        32, UNetConfig(n_channels=256, attention=True, dropout=0.05), 1024, 2_000_000, True, settings_of(Learned)()
    ),
    "imagenet32": _published(32, UNetConfig(n_channels=256), 512, 2_000_000),
    "imagenet64": _published(64, UNetConfig(n_channels=256, n_blocks=64), 512, 2_000_000),
}


def preset(name: str) -> TrainConfig:
    """Returns a preset by name.

    Raises:
        NelboError: If there is none of that name; the message lists them.
    """
    if name not in PRESETS:
        raise NelboError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
