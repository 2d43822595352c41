"""What version 1 of the format writes, pinned: a change here means archives that can no longer be read."""

import hashlib

import numpy as np

from nelbo.ans.distributions import CODECS
from nelbo.ans.loops import keystream
from nelbo.ans.message import Head, Message, bytes_of

N_SYMBOLS = 64


def pinned_codecs(tables):
    """One codec of each kind, from arithmetic alone."""
    i = np.arange(N_SYMBOLS)
    greys, scales = i * 262_144 - 99_999, (1 << 24) * 5 // (i + 3)
    rows = np.array([[0, 1, 5_000_000, 5_000_001, 2**24], [0, 2**23, 2**23 + 2**22, 2**24 - 1, 2**24]], np.uint32)
    return {
        "uniform": CODECS["uniform"](i % 25),
        "categorical": CODECS["categorical"](rows, i % 2),
        "gaussian": CODECS["gaussian"](tables, i * 77_777 - 2_345_678, scales),
        "grey_gaussian": CODECS["grey_gaussian"](tables, greys, scales),
        "grey_softmax": CODECS["grey_softmax"](tables, greys, scales * 200),
    }


def test_messages_of_version_1_are_pinned(tables):
    message = Message.seeded(np.array([keystream(np.uint64(i + 1000)) for i in range(600)], np.uint32))
    digest, codecs = hashlib.sha256(), pinned_codecs(tables)
    assert set(codecs) == set(CODECS)
    for codec in codecs.values():
        latents = codec.pop(message, Head.Q)
        digest.update(latents.astype("<i8").tobytes())
        codec.push(message, Head.P, latents)
    codecs["gaussian"].push(message, Head.Q, np.arange(N_SYMBOLS) * 1000)  # Most of them escaped.
    digest.update(bytes_of(message.words))
    state = [message.head_q, message.head_p, message.counter, message.n_words]
    assert digest.hexdigest() == "287ca166127f88115d833c9d5df965f2856a5eb367f343e69a16174c2bae8381"
    assert state == [98234765982826495, 4830128442, 18446744073709551579, 686]
