"""Parts of a table, put together, are the table to the last bit, finished or not."""

import itertools

import pytest

from nelbo.time_schedule.table_parts import cut, join

from fixtures.error_tables import assert_equal, gather, kinds


@kinds
@pytest.mark.parametrize("n_parts", [1, 2, 3, 13])
def test_parts_put_together_are_the_whole(make_model, make_pixels, kind, n_parts):
    table = gather(make_model, make_pixels, kind=kind, n=3)
    ends = [len(table.gammas) * i // n_parts for i in range(n_parts + 1)]
    parts = [cut(table, range(first, last)) for first, last in itertools.pairwise(ends)]
    assert_equal(join(parts), table)
