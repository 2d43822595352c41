"""Damaged archives: decoding ends in a NelboError or in exactly the right images, and whole chains are recovered."""

from io import BytesIO

import numpy as np
import pytest

from nelbo.container.stream import read_places


@pytest.fixture
def archive(small_archive):
    return small_archive


def test_the_whole_archive_decodes(archive, parts_of, decoded):
    assert decoded(archive) == (6, 6)
    assert decoded(parts_of(archive).fitted()) == (6, 6)
    assert parts_of(archive).sealed() == archive


# Damage


def chain_of(archive, place):
    """Returns which chain holds a byte, -1 for the header, 3 for index and footer."""
    _, places = read_places(BytesIO(archive))
    return (
        next((i for i, p in enumerate(places) if p.offset + p.n_bytes > place), 3) if place >= places[0].offset else -1
    )


def test_every_flipped_byte_is_found_and_the_other_chains_recovered(archive, decoded):
    n_images, rng = {-1: None, 0: 3, 1: 4, 2: 5, 3: 6}, np.random.default_rng(0)
    for place in range(len(archive)):
        bad = bytearray(archive)
        bad[place] ^= 1 << int(rng.integers(8))
        recover = place % 4 == 0  # The container's tests recover after every flip.
        n_recovered = n_images[chain_of(archive, place)] if recover else None
        assert decoded(bytes(bad), recover=recover) == (None, n_recovered)


def test_every_cut_is_found_and_the_whole_chains_recovered(archive, decoded):
    _, places = read_places(BytesIO(archive))
    ends = [place.offset + place.n_bytes for place in places]
    for n in range(len(archive)):
        n_recovered = (0, 3, 5, 6)[sum(end <= n for end in ends)] if n >= places[0].offset else None
        assert decoded(archive[:n], recover=n % 4 == 0) == (None, n_recovered if n % 4 == 0 else None)


def test_random_bytes_are_no_archive(decoded):
    rng = np.random.default_rng(0)
    for n in (0, 1, 7, 8, 20, 21, 300, 3000):
        for _ in range(4):
            assert decoded(rng.bytes(n)) == (None, None)
            assert decoded(bytes(n)) == (None, None)


def test_a_chain_that_comes_twice_is_recovered_once(archive, decoded):
    _, places = read_places(BytesIO(archive))
    start, end = places[0].offset, places[-1].offset + places[-1].n_bytes
    assert decoded(archive[:end] + archive[start:]) == (None, 6)


def mutated(archive, parts_of, rng):
    """Returns an archive after random damage to its bytes, or to its records before they are sealed again."""
    depth = rng.integers(4)
    if depth == 0:
        return damaged(archive, rng), False
    parts = parts_of(archive)
    for _ in range(rng.integers(1, 3)):
        which, i = rng.integers(5), int(rng.integers(3))
        fields, payload = parts.chains[i]
        if which == 0:
            parts.header = damaged(parts.header, rng)
        elif which == 1:
            parts.chains[i] = damaged(fields, rng, keep=True), payload
        elif which == 2:
            parts.chains[i] = fields, damaged(payload, rng)
        elif which == 3:
            parts.index = damaged(parts.index, rng)
        else:
            parts.footer = damaged(parts.footer, rng, keep=True)
    return (parts.sealed() if depth == 1 else parts.fitted()), True


def damaged(data, rng, keep=False):
    """Returns bytes with a flipped bit, a cut, a random stretch or a repeated one; all but the first change lengths."""
    at, n = int(rng.integers(len(data))), int(rng.integers(1, 9))
    kind = 0 if keep else rng.integers(4)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
    return (data[:at], data[:at] + rng.bytes(n) + data[at + n :], data[:at] + data[at : at + n] + data[at:])[kind - 1]


@pytest.mark.parametrize("n_mutations", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutations_never_give_a_wrong_image(archive, parts_of, decoded, n_mutations):
    rng = np.random.default_rng(n_mutations)
    for _ in range(n_mutations):
        decoded(*mutated(archive, parts_of, rng))
