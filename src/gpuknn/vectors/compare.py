"""Are the rows of two files the same, whatever their formats?"""

from collections.abc import Callable

import numpy as np

from gpuknn.vectors.converted import Converted
from gpuknn.vectors.ids import first_other, own_ids
from gpuknn.vectors.target import BLOCK_BYTES
from gpuknn.vectors.vectors import Vectors


def first_difference(ours: Converted, theirs: Vectors, ids: bool, checked: Callable[[int], None]) -> str | None:
    """In what way rows, or with `ids` their ids, differ first, in words; None if all are equal, bit by bit.

    `checked` is told how many rows have been compared.
    """
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return " beside ".join(f"{v.shape[0]:,} x {v.shape[1]} {v.dtype}" for v in (ours, theirs))
    if ids:
        other = first_other(ours.row_ids(), own_ids(theirs.ids), len(ours))
        if other is not None:
            return f"first at row {other[0]}, which has the id {other[1]} beside {other[2]}"
    d, itemsize = ours.shape[1], ours.dtype.itemsize
    step = max(1, BLOCK_BYTES // (d * itemsize))
    for first in range(0, len(ours), step):
        a, b = ours[first : first + step], theirs[first : first + step]
        same = a.view(f"u{itemsize}") == b.view(f"u{itemsize}")
        if not same.all():
            i, j = (int(x) for x in np.argwhere(~same)[0])
            return f"first at row {first + i}, component {j}: {a[i, j].item():.9g} beside {b[i, j].item():.9g}"
        checked(first + len(a))
    return None
