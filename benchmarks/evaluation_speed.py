"""Images a second of evaluating ``cifar10-small``: plain float32 against the default path, in one run."""

from functools import partial

from _paired import compare, out_option

import nelbo
from nelbo.runtime.device import fastest_precision

if __name__ == "__main__":
    out = out_option(__doc__)
    model, images = nelbo.load("cifar10-small"), nelbo.open_images("cifar10-test-256")
    paths = {
        "float32": partial(nelbo.evaluate, model, images, precision="float32"),
        f"default ({fastest_precision(model.device)})": partial(nelbo.evaluate, model, images),
    }
    compare("evaluation, cifar10-small", len(images), paths, rounds=10, out=out)
