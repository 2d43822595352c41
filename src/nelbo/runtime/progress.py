"""Progress in images while tiles are coded."""

from collections.abc import Callable

Advance = Callable[[int], object]
"""Called with the number of images done since the last call."""


def ignore(n: int) -> None:
    """Is called where nobody watches."""


class Portion:
    """Some images, whose parts are done one after the other.

    Args:
        n_images: How many images there are.
        n_parts: About how many parts they have.
        advance: Called as images are done: their parts' share of all parts, in whole images.
    """

    def __init__(self, n_images: int, n_parts: int, advance: Advance) -> None:
        self._n_images, self._n_parts, self._advance = n_images, max(n_parts, 1), advance
        self._n_done = self._n_told = 0

    def __call__(self, n: int) -> None:
        """Counts some more parts."""
        self._n_done += n
        self._tell(min(self._n_images, self._n_images * self._n_done // self._n_parts))

    def finish(self) -> None:
        """Counts what is left."""
        self._tell(self._n_images)

    def _tell(self, n: int) -> None:
        if n > self._n_told:
            self._advance(n - self._n_told)
            self._n_told = n
