"""Images a second of a training step of ``cifar10-small``: plain float32 against the default path, in one run."""

import torch
from _paired import compare, out_option

from nelbo.data.open import open_images
from nelbo.runtime.processes import World
from nelbo.train.config import override
from nelbo.train.loop import Trainer
from nelbo.train.presets import preset


def trainer(precision: str, compiled: bool = False) -> Trainer:
    """Returns a fresh run of the bundled model's preset on the bundled images."""
    config = override(preset("cifar10-small"), [f"precision={precision}"])
    return Trainer(config, open_images("cifar10-test-256"), World(0, 1, torch.device("cpu")), compiled)


if __name__ == "__main__":
    out = out_option(__doc__)
    baseline, default = trainer("float32"), trainer("auto")
    paths = {
        "float32": baseline.run_step,
        f"default ({default.precision})": default.run_step,
        "default with --compile": trainer("auto", compiled=True).run_step,
    }
    compare("training step, cifar10-small", baseline.config.batch_size, paths, rounds=10, out=out)
