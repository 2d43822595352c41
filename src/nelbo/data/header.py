"""What is known of an encoded image before its pixels are decoded, and whether nelbo can use it."""

import re
from io import BufferedReader, BytesIO
from pathlib import PurePosixPath

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from nelbo.data.image_formats import IMAGE_FORMATS

FORMATS = tuple(each.pillow for each in IMAGE_FORMATS.values() if each.pillow)
"""What Pillow may decode: a data set is untrusted input, and Pillow knows formats that start programs."""

SUFFIXES = frozenset(suffix for each in IMAGE_FORMATS.values() if each.pillow for suffix in each.suffixes)

_SAMPLES_PER_PIXEL = 277  # A tag of TIFF.

_KINDS = {
    "1": "1-bit",
    "P": "palette",
    "PA": "palette with alpha",
    "LA": "grey with alpha",
    "RGBA": "RGB with alpha",
    "I;16": "16-bit",
    "I;16B": "16-bit",
    "I": "more than 8 bits a channel",
    "F": "floating point",
}


def is_image_file(name: str) -> bool:
    """Returns whether a relative path is an image's by its extension, and no part of it is hidden."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def open_image(stream: BytesIO | BufferedReader) -> ImageFile:
    """Opens an encoded image without decoding its pixels.

    Raises:
        ValueError: It is in none of `FORMATS`. Damaged data may raise any other exception of Pillow.
    """
    try:
        return Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError as error:
        # Pillow's own message names a stream object, not the image.
        raise ValueError("not a readable image") from error


def image_shape(image: ImageFile) -> tuple[int, int, int]:
    """Returns the shape (C, H, W) of an image that reads as 8-bit grey or RGB without loss.

    Raises:
        ValueError: It does not; the message is the reason, in a few words.
    """
    if image.mode not in ("L", "RGB"):
        raise ValueError(_KINDS.get(image.mode, f"mode {image.mode}"))
    check_samples(image)
    return (len(image.getbands()), image.height, image.width)


def check_samples(image: ImageFile) -> None:
    """Checks that the samples that Pillow gives are those of the file, and all there is.

    Raises:
        ValueError: They are not; the message is the reason, in a few words.
    """
    if image.mode != "I;16" and not _has_8_bits(image):
        raise ValueError("not 8 bits a channel")
    if image.format == "TIFF" and not _has_plain_samples(image):
        raise ValueError("samples that are no colours, or colours multiplied by alpha")
    if "transparency" in image.info:
        raise ValueError("a transparent colour")
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError("several frames")


def _has_plain_samples(image: ImageFile) -> bool:
    """Returns whether Pillow gives all samples of a TIFF file as they are.

    It drops those of unknown meaning, raw modes such as ``RGBX`` and ``RGBAX``, and divides colours by alpha, ``RGBa``.
    """
    samples = getattr(image, "tag_v2", {}).get(_SAMPLES_PER_PIXEL, 1)
    return samples == len(image.getbands()) and not any(
        "a" in str(raw_mode) for raw_mode, *_ in _decoder_arguments(image)
    )


def _decoder_arguments(image: ImageFile) -> list[tuple[object, ...]]:
    """Returns what the decoder of each part of an image is told, the raw mode first."""
    return [args if isinstance(args, tuple) else (args,) for _decoder, _box, _offset, args in image.tile]


def _has_8_bits(image: ImageFile) -> bool:
    """Returns whether Pillow decodes the file's samples unchanged.

    It opens RGB files of 16 bits a channel as mode RGB and drops the lower half in silence, and scales up the
    samples of grey files of 2 and 4 bits. What is in the file shows in the raw mode that its decoder is told:
    ``RGB;16B``, ``L;4``. Files of the PPM family give their decoder the largest sample value instead.
    """
    for raw_mode, *options in _decoder_arguments(image):
        if isinstance(raw_mode, str) and re.search(r";\D*\d", raw_mode):
            return False
        if image.format == "PPM" and options and options[0] != 255:
            return False
    return True
