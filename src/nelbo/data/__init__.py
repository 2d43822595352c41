"""Image data sets: lazily read sequences of 8-bit images of one size, whatever they are stored in."""

from nelbo.data.arrays import from_array
from nelbo.data.images import Images
from nelbo.data.open import open_images

__all__ = ["Images", "from_array", "open_images"]
