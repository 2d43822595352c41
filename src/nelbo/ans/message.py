r"""The message: one stack of 32-bit words with two rANS heads, from which every pop is undone bit for bit by a push.

A head is an integer :math:`x \in [2^{32}, 2^{64})`. With a symbol's cumulative frequency :math:`c` and frequency
:math:`f` out of :math:`2^{24}`,

.. math:: \text{push:} \quad x \ge 2^{40} f \Rightarrow \text{push the word } x \bmod 2^{32}, \;
              x \leftarrow \lfloor x / 2^{32} \rfloor; \qquad
              x \leftarrow 2^{24} \lfloor x / f \rfloor + c + (x \bmod f)

.. math:: \text{pop:} \quad u = x \bmod 2^{24} \in [c, c + f); \qquad
              x \leftarrow f \lfloor x / 2^{24} \rfloor + u - c; \qquad
              x < 2^{32} \Rightarrow x \leftarrow 2^{32} x + \text{pop a word}

Bits-back coding pops latents under q while it pushes data and latents under p. Were that done with one head, q would
reuse bits that p has just written and that are not uniform where p is wrong: +1.05 bits per dimension at 20 steps.
So head ``Q`` serves q, head ``P`` serves p, and the words that pass between head ``Q`` and the shared stack are XORed
with a keystream, splitmix64 of a counter that pops of ``Q`` raise and pushes of ``Q`` lower.

No bits are invented: a pop from an empty stack is an error and changes nothing, and the caller seeds the stack.

References:
    Asymmetric numeral systems (Duda, 2013). https://arxiv.org/abs/1311.2540
    Practical lossless compression with latent variables using bits back coding (Townsend et al., 2019).
    https://arxiv.org/abs/1901.04866
"""

import math
from enum import IntEnum

import numpy as np
from jaxtyping import UInt32, UInt64

from nelbo.ans import loops
from nelbo.errors import CorruptArchiveError, NelboError, StackEmptyError

LOWEST_HEAD = 1 << 32


class Head(IntEnum):
    """The two heads of a message, as places in its state."""

    Q = 0
    P = 1


class Message:
    """A stack of words under two heads; codecs change it in place.

    Attributes:
        state: Head Q, head P, the keystream's counter, the number of words.
    """

    def __init__(self, words: UInt32[np.ndarray, " n"], head_q: int, head_p: int, counter: int) -> None:
        if min(head_q, head_p) < LOWEST_HEAD:
            raise CorruptArchiveError("a chain's coder state is out of its range: the file is damaged")
        self.state: UInt64[np.ndarray, " 4"] = np.array([head_q, head_p, counter, len(words)], np.uint64)
        self._buffer = np.array(words, np.uint32)

    @classmethod
    def seeded(cls, words: UInt32[np.ndarray, " n"]) -> "Message":
        """Returns a fresh message over a stack of words; head Q starts with the topmost one, not with predictable bits.

        Raises:
            StackEmptyError: If there is no word.
        """
        if len(words) == 0:
            raise StackEmptyError("the seed is empty: a chain needs at least one word")
        head_q = LOWEST_HEAD | int(words[-1]) ^ _key(0)
        return cls(words[:-1], head_q, LOWEST_HEAD, 1)

    def unseeded(self) -> UInt32[np.ndarray, " n"]:
        """Returns the words of the seed, the inverse of :meth:`seeded`.

        Raises:
            CorruptArchiveError: If the message is not in the state in which it was seeded.
        """
        if self.head_q >> 32 != 1 or self.head_p != LOWEST_HEAD or self.counter != 1:
            raise CorruptArchiveError("a chain does not end where it began: the file or the model is not the one used")
        return np.append(self.words, np.uint32((self.head_q ^ _key(0)) & 0xFFFFFFFF))

    @property
    def words(self) -> UInt32[np.ndarray, " n"]:
        """The stack, its top last; a view."""
        return self._buffer[: self.n_words]

    @property
    def n_words(self) -> int:
        """The number of words on the stack."""
        return int(self.state[loops.N_WORDS])

    @property
    def head_q(self) -> int:
        """The head that serves q."""
        return int(self.state[Head.Q])

    @property
    def head_p(self) -> int:
        """The head that serves p."""
        return int(self.state[Head.P])

    @property
    def counter(self) -> int:
        """How many words head Q has popped more than pushed, modulo 2^64."""
        return int(self.state[loops.COUNTER])

    @property
    def n_bits(self) -> float:
        """The information in the message: its words and the logarithms of its heads."""
        return 32 * self.n_words + math.log2(self.head_q) + math.log2(self.head_p) - 64

    def copy(self) -> "Message":
        """Returns a message of its own with the same content."""
        return Message(self.words, self.head_q, self.head_p, self.counter)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Message)
            and np.array_equal(self.state, other.state)
            and np.array_equal(self.words, other.words)
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def buffer(self, n_free: int) -> UInt32[np.ndarray, " m"]:
        """Returns the memory of the stack, grown so that it has room for more words."""
        needed = self.n_words + n_free
        if needed > len(self._buffer):
            grown = np.zeros(max(needed, 2 * len(self._buffer)), np.uint32)
            grown[: self.n_words] = self.words
            self._buffer = grown
        return self._buffer


def words_of(data: bytes) -> UInt32[np.ndarray, " n"]:
    """Returns bytes as words, the lowest byte first; zeros fill the last one up."""
    return np.frombuffer(data + bytes(-len(data) % 4), "<u4").astype(np.uint32)


def bytes_of(words: UInt32[np.ndarray, " n"]) -> bytes:
    """Returns words as bytes, the inverse of :func:`words_of` but for the zeros."""
    return words.astype("<u4").tobytes()


def check_status(status: int) -> None:
    """Turns a kernel's status into an exception, unless all is well.

    Raises:
        StackEmptyError: If the stack ran out of words.
        NelboError: If a symbol, a mean or a scale is none that the codec can code.
    """
    if status == loops.EMPTY:
        raise StackEmptyError("the stack ran out of words: the encoder needs a longer seed, a decoder another file")
    if status == loops.OUTSIDE:
        raise NelboError("a symbol or the parameters of its distribution are outside what the codec can code")


def _key(i: int) -> int:
    return int(loops.keystream(np.uint64(i)))
