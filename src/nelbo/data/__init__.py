"""Image data sets: lazily read sequences of 8-bit images of one size, whatever they are stored in."""

from nelbo.data.arrays import from_array
from nelbo.data.images import open_images
from nelbo.data.interface import Images

__all__ = ["Images", "from_array", "open_images"]
