"""Pictures of any size and mode as images of one size: shrunk by Lanczos's filter, then cut to a square window."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image, ImageOps

from nelbo.data.encoded import EncodedFiles, name_some
from nelbo.data.header import open_image
from nelbo.data.images import Images
from nelbo.errors import NelboError, one_line

GREY, COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
CENTRE = 0.5


@dataclass(frozen=True)
class Fit:
    """How pictures become images of one size.

    Attributes:
        resize: The length in pixels that the shorter side gets; None to leave pictures as large as they are.
        crop: The side of the square window that is kept; None for ``resize``.
    """

    resize: int | None = None
    crop: int | None = None

    def __post_init__(self) -> None:
        """Raises NelboError if there is no such window."""
        for name, side in (("--resize", self.resize), ("--crop", self.crop)):
            if side is not None and side < 1:
                raise NelboError(f"{name} is a number of pixels from 1 on, got {side}")
        if self.resize is None and self.crop is None:
            raise NelboError("pictures are fitted by --resize or --crop: give one of them")
        if self.resize is not None and self.side > self.resize:
            raise NelboError(f"--crop {self.crop} is larger than --resize {self.resize}: make it smaller")

    @property
    def side(self) -> int:
        """The width and height of the results."""
        side = self.crop or self.resize
        assert side is not None
        return side

    def __str__(self) -> str:
        """Returns it as the options that say it."""
        return " ".join(f"--{name} {side}" for name, side in vars(self).items() if side is not None)

    def apply(self, picture: Image.Image, x: float = CENTRE, y: float = CENTRE) -> Image.Image:
        """Returns the window of a picture.

        Args:
            picture: Of mode L or RGB, not smaller than the window.
            x: Where the window lies, 0 for leftmost to 1 for rightmost.
            y: Where it lies, 0 for the top.
        """
        if self.resize is not None and min(picture.size) != self.resize:
            scale = self.resize / min(picture.size)
            width, height = (max(self.resize, round(length * scale)) for length in picture.size)
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        left, top = (
            min(int(place * (length - self.side + 1)), length - self.side)
            for place, length in zip((x, y), picture.size, strict=True)
        )
        return picture.crop((left, top, left + self.side, top + self.side))


@dataclass(frozen=True, eq=False)
class FittedImages(Images):
    """Pictures fitted each time they are read: to their centre, or for training to any place that is asked for."""

    n_images: int
    picture: Callable[[int], Image.Image] = field(repr=False)
    fit: Fit

    def __len__(self) -> int:
        return self.n_images

    @property
    def preparation(self) -> str:
        """What is done to the pictures before they are images."""
        return str(self.fit)

    def _read(self, indices: Int64[np.ndarray, " b"]) -> UInt8[np.ndarray, "b c h w"]:
        return self._read_at(indices, np.full((len(indices), 2), CENTRE))

    def _read_at(
        self, indices: Int64[np.ndarray, " b"], places: Float[np.ndarray, "b 2"]
    ) -> UInt8[np.ndarray, "b c h w"]:
        pixels = np.empty((len(indices), *self.shape), np.uint8)
        for image, index, (x, y) in zip(pixels, indices.tolist(), places.tolist(), strict=True):
            window = np.asarray(self.fit.apply(self.picture(index), x, y))
            image[...] = np.moveaxis(window.reshape(*self.shape[1:], self.shape[0]), -1, 0)
        return pixels


def fit_images(images: Images, fit: Fit) -> Images:
    """Returns images of one size, fitted to another.

    Raises:
        NelboError: If they are smaller than the window.
    """
    _, height, width = images.shape
    if fit.resize is None and min(height, width) < fit.side:
        raise NelboError(f"{images.name}: {width}x{height} is smaller than {fit}: use --resize {fit.side} instead")

    def picture(index: int) -> Image.Image:
        pixels = images.read([index])[0].permute(1, 2, 0).numpy()
        return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)

    shape = (images.shape[0], fit.side, fit.side)
    return FittedImages(images.name, shape, images.labels, len(images), picture, fit)


def open_fitted(name: str, source: EncodedFiles, fit: Fit) -> Images:
    """Opens encoded pictures after reading the header of every one of them.

    They are turned upright as their EXIF orientation says; what is transparent lies on white; an animation is its
    first frame. All become grey if all are grey, else RGB.

    Args:
        name: What to call the data set.
        source: Where the pictures lie; at least one.
        fit: How they become images of one size.

    Raises:
        NelboError: Some are damaged, of more than 8 bits, or smaller than the window; the message names three of them.
    """
    modes, at_fault = set[str](), list[str]()
    for index in range(len(source)):
        try:
            with source.open(index) as stream, open_image(stream) as image:
                modes.add(_checked_mode(image, fit))
        except Exception as error:  # Damaged headers raise nearly everything.
            at_fault.append(f"{source.item_name(index)} ({one_line(error)})")
    if at_fault:
        raise NelboError(
            f"{name}: {len(at_fault)} of {len(source)} pictures cannot be used: {name_some(at_fault)}; "
            "replace them or remove them"
        )
    mode = "L" if modes <= set(GREY) else "RGB"

    def picture(index: int) -> Image.Image:
        try:
            with source.open(index) as stream, open_image(stream) as image:
                return _flat(ImageOps.exif_transpose(image), mode)
        except Exception as error:
            problem = f"{source.item_name(index)} cannot be read: {one_line(error)}"
            raise NelboError(f"{name}: {problem}; replace the file or remove it") from error

    return FittedImages(name, (len(mode), fit.side, fit.side), None, len(source), picture, fit)


def _checked_mode(image: Image.Image, fit: Fit) -> str:
    if image.mode not in GREY + COLOUR:
        raise ValueError(f"more than 8 bits a channel, mode {image.mode}")
    if fit.resize is None and min(image.size) < fit.side:
        raise ValueError(f"{image.width}x{image.height}, smaller than {fit}: use --resize {fit.side} instead")
    return image.mode


def _flat(picture: Image.Image, mode: str) -> Image.Image:
    """Returns a picture without alpha."""
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        above = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return picture.convert(mode)
