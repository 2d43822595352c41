"""Lanes: messages that are coded side by side, so that one network call serves them all; each fails by itself."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int64

from nelbo.ans.distributions import Codec
from nelbo.ans.message import Head, Message
from nelbo.errors import NelboError

Coding = Callable[[int], Codec]
"""The codec of each lane."""


class Lanes:
    """Messages of as many chains.

    A lane on which something goes wrong, above all a stack that runs dry, is left alone from then on, and its
    symbols are zeros; the others go on.

    Args:
        messages: The messages, changed in place.

    Attributes:
        errors: What went wrong, by lane.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.errors: dict[int, NelboError] = {}

    def push(self, head: Head, codec: Coding, symbols: Int64[np.ndarray, "b d"]) -> None:
        """Pushes a row of symbols on each lane."""
        for lane, message in enumerate(self.messages):
            self.attempt(lane, lambda lane=lane, message=message: codec(lane).push(message, head, symbols[lane]))

    def pop(self, head: Head, codec: Coding, n_symbols: int) -> Int64[np.ndarray, "b d"]:
        """Pops a row of symbols from each lane."""
        symbols = np.zeros((len(self.messages), n_symbols), np.int64)

        def pop(lane: int, message: Message) -> None:
            symbols[lane] = codec(lane).pop(message, head)

        for lane, message in enumerate(self.messages):
            self.attempt(lane, lambda lane=lane, message=message: pop(lane, message))
        return symbols

    def attempt(self, lane: int, action: Callable[[], None]) -> None:
        """Does something on a lane, unless it has failed before; keeps the error if it fails now."""
        if lane in self.errors:
            return
        try:
            action()
        except NelboError as error:
            self.errors[lane] = error
