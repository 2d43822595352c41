"""The images of a run: which are held out, and whether they are what the model takes."""

from nelbo.data.images import Images, describe
from nelbo.errors import NelboError
from nelbo.train.config import TrainConfig


def hold_out(data: Images, n_held_out: int) -> tuple[Images, Images | None]:
    """Returns a training set without its last images, and these; None for none.

    Raises:
        NelboError: If nothing would be left to train on.
    """
    if n_held_out == 0:
        return data, None
    if n_held_out >= len(data):
        raise NelboError(
            f"{data.name} has {len(data)} images and the configuration holds out {n_held_out} of them: "
            "pass more images, or --set n_held_out=0"
        )
    cut = len(data) - n_held_out
    return data.select(range(cut)), data.select(range(cut, len(data)))


def scaled_hold_out(n_held_out: int, n_images: int) -> int:
    """Returns how many images of a set to hold out where a preset asks for some: at most a tenth."""
    return min(n_held_out, n_images // 10)


def check_images(config: TrainConfig, data: Images) -> None:
    """Raises NelboError unless the images have the model's shape."""
    if tuple(data.shape) != config.model.image_shape:
        raise NelboError(
            f"{data.name}: the images are {describe(data.shape)}, the preset's model takes "
            f"{describe(config.model.image_shape)}: use images of that size, cut pictures to it with --resize or "
            f"--crop, or --set model.image_shape=[{','.join(map(str, data.shape))}]"
        )


def check_labels(config: TrainConfig, data: Images) -> None:
    """Raises NelboError if the model has classes and an image has none of them."""
    n_classes = config.model.n_classes
    if not n_classes:
        return
    if data.labels is None:
        raise NelboError(
            f"{data.name} has no labels, which a model of {n_classes} classes needs: pass an .npz file with an array "
            "'labels', or --set model.n_classes=0"
        )
    low, high = int(data.labels.min()), int(data.labels.max())
    if low < 0 or high >= n_classes:
        raise NelboError(
            f"{data.name}: the labels run from {low} to {high}, the model's classes from 0 to {n_classes - 1}: "
            f"relabel the images, or --set model.n_classes={high + 1}"
        )
