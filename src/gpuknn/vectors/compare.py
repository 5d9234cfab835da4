"""Is the content of two files the same, whatever their formats?"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpuknn.vectors.converted import Converted
from gpuknn.vectors.target import BLOCK_BYTES
from gpuknn.vectors.vectors import Vectors


@dataclass(frozen=True)
class Difference:
    """The first component that differs."""

    row: int
    component: int
    ours: float
    theirs: float


def first_difference(ours: Converted, theirs: Vectors, checked: Callable[[int], None]) -> Difference | None:
    """Compare rows of one shape and dtype bit by bit; None where all are equal.

    `checked` is told how many rows have been compared.
    """
    d, itemsize = ours.shape[1], ours.dtype.itemsize
    step = max(1, BLOCK_BYTES // (d * itemsize))
    for first in range(0, len(ours), step):
        a, b = ours[first : first + step], theirs[first : first + step]
        same = a.view(f"u{itemsize}") == b.view(f"u{itemsize}")
        if not same.all():
            i, j = (int(x) for x in np.argwhere(~same)[0])
            return Difference(first + i, j, a[i, j].item(), b[i, j].item())
        checked(first + len(a))
    return None
