"""The classes of images, as a class-conditional model is told of them."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from nelbo.data.images import Images
from nelbo.errors import NelboError
from nelbo.models.interface import DiffusionModel


def labels_of(model: DiffusionModel, data: Images) -> Int64[Tensor, " n"] | None:
    """Returns the class of every image of a data set for a class-conditional model, None for any other.

    Raises:
        NelboError: If the model has classes and an image has none of them; the message names the data set.
    """
    if not model.n_classes:
        return None
    if data.labels is None:
        raise NelboError(
            f"{data.name} has no labels, which a model of {model.n_classes} classes needs: "
            "pass labels= with a tensor of images, or an .npz file with an array 'labels'"
        )
    labels = torch.from_numpy(data.labels)
    try:
        model.check_labels(labels, len(data))
    except NelboError as error:
        raise NelboError(f"{data.name}: {error}") from None
    return labels


def labels_of_samples(
    model: DiffusionModel, seeds: Sequence[int], classes: Sequence[int] | None
) -> Int64[Tensor, " n"] | None:
    """Returns the class of the image of each seed: class number ``seed`` of those given, which repeat without end.

    Args:
        model: The model; of one without classes the result is None.
        seeds: The seeds.
        classes: The classes to draw; None for all of a model that has some.

    Raises:
        NelboError: If classes are given that the model does not have.
    """
    if classes is None and not model.n_classes:
        return None
    wanted = list(range(model.n_classes) if classes is None else classes)
    if not wanted:
        raise NelboError("there are no classes to draw: name some, or leave them out for all of the model's")
    model.check_labels(torch.tensor(wanted, dtype=torch.int64), len(wanted))
    return torch.tensor([wanted[seed % len(wanted)] for seed in seeds], dtype=torch.int64)


def check_fits(model: DiffusionModel, data: Images) -> None:
    """Raises NelboError unless there are images, all of the model's shape."""
    if len(data) == 0:
        raise NelboError("there are no images to evaluate")
    if tuple(data.shape) != tuple(model.image_shape):
        raise NelboError(
            f"{data.name}: images have shape {tuple(data.shape)} (channels, height, width), "
            f"the model takes {tuple(model.image_shape)}: resize or convert them, or use another model"
        )
