"""What a search gives: the neighbours of every query, and how answers from parts of a database become one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Neighbors:
    """The k nearest rows of every query, nearest first."""

    ids: np.ndarray
    """(nq, k) int64: row numbers in the database, from 0; -1 where there is no row."""
    dists: np.ndarray
    """(nq, k) float32 or float64: distances as stored; inf where there is no row."""


def merge(parts: Sequence[Neighbors], k: int) -> Neighbors:
    """The k nearest of several answers to the same queries, given in ascending order of their rows.

    Every id of a part is lower than those of the next, and within a part equal distances stand in the order of
    their ids: so where distances are equal the earlier part's come first.
    """
    from gpuknn.engine.cpu.kernels import merge_two  # here: Numba is not needed to read a file

    merged = parts[0]
    for later in parts[1:]:
        width = min(k, merged.ids.shape[1] + later.ids.shape[1])
        both = Neighbors(*(np.empty((len(a), width), a.dtype) for a in (merged.ids, merged.dists)))
        merge_two(merged.ids, merged.dists, later.ids, later.dists, both.ids, both.dists)
        merged = both
    return Neighbors(merged.ids[:, :k], merged.dists[:, :k])
