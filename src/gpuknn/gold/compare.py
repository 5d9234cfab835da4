"""Are two gold standards the same answer, and if not, in what way?"""

from dataclasses import dataclass

import numpy as np

from gpuknn.errors import InputError
from gpuknn.gold.gold import Gold

ROUNDING = 1e-6
"""Distances nearer than this, relative to the larger of 1 and the distance, differ by rounding."""


@dataclass(frozen=True)
class Comparison:
    """Entries of two answers, side by side: of the first k neighbours, if one has more."""

    widths: tuple[int, int]
    """Neighbours of each query."""
    entries: int
    ids_only: bool
    """Whether one of the two has no distances."""
    ids: int = 0
    """Other ids, if there are no distances to tell why."""
    ties: int = 0
    """Another id at a bit-equal distance."""
    rounding: int = 0
    """Distances that differ by rounding, with or without another id."""
    real: int = 0
    """Distances that differ by more."""
    first: tuple[int, int] | None = None
    """Query and rank of the worst kind of difference, from 0."""

    @property
    def equal(self) -> bool:
        """Nothing differs."""
        return self.first is None


def compare_gold(a: Gold, b: Gold) -> Comparison:
    """Count the entries in which two answers differ: ties, rounding, real differences.

    Both answer the same queries and number the same rows (`match.matched`), and have distances of one kind
    (`distances.alike`).  Raises InputError if the numbers of queries differ.
    """
    if len(a) != len(b):
        raise InputError(f"one answers {len(a):,} queries, the other {len(b):,}")
    widths = a.shape[1], b.shape[1]
    a, b = a.first(min(widths)), b.first(min(widths))
    other = a.ids != b.ids
    if a.dists is None or b.dists is None:
        return Comparison(widths, a.ids.size, True, ids=int(other.sum()), first=_first(other))
    x, y = a.dists.astype(np.float64), b.dists.astype(np.float64)
    none = (a.ids < 0) & (b.ids < 0)  # what stands beside no neighbour is no distance
    apart = (x != y) & ~none
    # NaN is unequal to itself and no rounding of anything: a real difference.
    near = np.isfinite(x) & np.isfinite(y)
    largest = np.maximum(1.0, np.maximum(np.abs(x[near]), np.abs(y[near])))
    near[near] = np.abs(x[near] - y[near]) <= ROUNDING * largest
    ties, rounding, real = ~apart & other, apart & near, apart & ~near
    worst = next((kind for kind in (real, rounding, ties) if kind.any()), np.zeros_like(other))
    counts = {"ties": int(ties.sum()), "rounding": int(rounding.sum()), "real": int(real.sum())}
    return Comparison(widths, a.ids.size, False, **counts, first=_first(worst))


def _first(differ: np.ndarray) -> tuple[int, int] | None:
    found = np.argwhere(differ)
    return (int(found[0, 0]), int(found[0, 1])) if len(found) else None
