"""Byte strings that are joined to one are split again, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nelbo.container.framing import join_parts, split_parts
from nelbo.errors import CorruptArchiveError


@given(parts=st.lists(st.binary(max_size=9), max_size=6), cut=st.integers(0, 99))
def test_parts_are_joined_and_split(parts, cut):
    joined = join_parts(parts)
    assert split_parts(joined, len(parts)) == parts
    for wrong in (joined[:cut], joined + b"\0"):
        if wrong != joined:
            with pytest.raises(CorruptArchiveError):
                split_parts(wrong, len(parts))
