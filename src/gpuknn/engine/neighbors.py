"""What a search gives: the neighbours of every query, and how answers from parts of a database become one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARRAYS = ("ids", "dists", "own_ids", "query_ids")
"""Of an answer."""


@dataclass(frozen=True)
class Certificate:
    """What the proof rested on: how pairs were filtered and how close the bound was to being needed."""

    method: str
    bound: float
    """The largest proven error of a filter score, in units of |q||x| (`bound.py`)."""
    pairs_refined: int
    """(query, row) pairs whose float64 distance was computed."""
    smallest_margin: float
    """The smallest share of the proven error that was left unused by a refined pair; 1 where none was needed."""

    def __add__(self, other: "Certificate") -> "Certificate":
        return Certificate(
            ", ".join(sorted({*self.method.split(", "), *other.method.split(", ")})),
            max(self.bound, other.bound),
            self.pairs_refined + other.pairs_refined,
            min(self.smallest_margin, other.smallest_margin),
        )


@dataclass(frozen=True, eq=False, repr=False)
class Neighbors:
    """The k nearest rows of every query, nearest first: `ids, dists = found`.

    Two are equal if `ids`, `dists`, `own_ids` and `query_ids` are, bit by bit.

    >>> import gpuknn, numpy as np
    >>> found = gpuknn.exact_knn(np.eye(3), np.eye(3)[:2], k=1, metric="l2")
    >>> found
    Neighbors(2 queries x 1, l2, float32 distances)
    >>> ids, dists = found
    >>> ids.tolist(), dists.tolist()
    ([[0], [1]], [[0.0], [0.0]])
    """

    ids: NDArray[np.int64]
    """(nq, k) int64: row numbers in the database, from 0; -1 where there is no row."""
    dists: NDArray[np.floating]
    """(nq, k) float32 or float64: distances as stored; inf where there is no row."""
    metric: str | None = None
    """cosine, ip, l2 or hamming: which distances `dists` are; None if nobody has said."""
    own_ids: NDArray[np.int64] | None = None
    """(nq, k) int64: the ids that the database's file gives to these rows, if those are not their numbers."""
    query_ids: NDArray[np.int64] | None = None
    """(nq,) int64: the ids that the queries' file gives to them, if those are not their numbers."""
    bits: int | None = None
    """Of a sketch, under hamming."""
    certificate: Certificate | None = None
    """What the proof rested on that no neighbour was missed."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """The ids, then the distances (FAISS and scikit-learn give them in the other order)."""
        return iter((self.ids, self.dists))

    def __eq__(self, other: object) -> bool:
        return same_answer(self, other) if isinstance(other, Neighbors) else NotImplemented

    def __repr__(self) -> str:
        nq, k = self.ids.shape
        kind = f"{self.metric}, " if self.metric else ""
        return f"Neighbors({nq:,} queries x {k}, {kind}{self.dists.dtype} distances)"


def same_answer(a: Any, b: Any) -> bool:
    """Whether two answers have the same arrays, bit by bit."""
    return all(same_bits(getattr(a, name), getattr(b, name)) for name in ARRAYS)


def same_bits(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    """Whether two arrays, if there are any, have the same dtype, shape and bytes."""
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def merge(parts: Sequence[Neighbors], k: int) -> Neighbors:
    """The k nearest of several answers to the same queries, given in ascending order of their rows.

    Every id of a part is lower than those of the next, and within a part equal distances stand in the order of
    their ids: so where distances are equal the earlier part's come first.
    """
    from gpuknn.engine.cpu.kernels import merge_two  # here: Numba is not needed to read a file

    merged = parts[0]
    for later in parts[1:]:
        width = min(k, merged.ids.shape[1] + later.ids.shape[1])
        ids, dists = (np.empty((len(a), width), a.dtype) for a in (merged.ids, merged.dists))
        merge_two(merged.ids, merged.dists, later.ids, later.dists, ids, dists)
        merged = Neighbors(ids, dists)
    return Neighbors(merged.ids[:, :k], merged.dists[:, :k])
