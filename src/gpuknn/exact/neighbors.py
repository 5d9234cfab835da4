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
    their ids: so a stable sort by distance is a sort by (distance, id).
    """
    ids = np.concatenate([p.ids for p in parts], axis=1)
    dists = np.concatenate([p.dists for p in parts], axis=1)
    order = np.argsort(dists, axis=1, kind="stable")[:, :k]
    return Neighbors(np.take_along_axis(ids, order, axis=1), np.take_along_axis(dists, order, axis=1))
