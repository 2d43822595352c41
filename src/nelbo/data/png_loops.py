"""The compiled loop of PNG: undoing the filters of rows, each of which needs the row above."""

import numpy as np
from jaxtyping import UInt8

from nelbo.runtime.loops import compiled


@compiled
def unfilter(kinds: UInt8[np.ndarray, " h"], rows: UInt8[np.ndarray, "h n"], step: int) -> None:
    """Replaces filtered rows by their samples; ``step`` is how many bytes the pixel to the left is away."""
    for y in range(rows.shape[0]):
        kind = kinds[y]
        for x in range(rows.shape[1]):
            left = np.int64(rows[y, x - step]) if x >= step else 0
            above = np.int64(rows[y - 1, x]) if y else 0
            corner = np.int64(rows[y - 1, x - step]) if y and x >= step else 0
            if kind == 1:
                prediction = left
            elif kind == 2:
                prediction = above
            elif kind == 3:
                prediction = (left + above) >> 1
            elif kind == 4:
                near_left, near_above = abs(above - corner), abs(left - corner)
                near_corner = abs(left + above - 2 * corner)
                if near_left <= near_above and near_left <= near_corner:
                    prediction = left
                else:
                    prediction = above if near_above <= near_corner else corner
            else:
                prediction = 0
            rows[y, x] = np.uint8((np.int64(rows[y, x]) + prediction) & 255)
