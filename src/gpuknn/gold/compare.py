"""Are two gold standards the same answer, and if not, in what way?"""

from dataclasses import dataclass

import numpy as np

from gpuknn.exact.neighbors import Neighbors

ROUNDING = 1e-6
"""Distances nearer than this, relative to the larger of 1 and the distance, differ by rounding."""


@dataclass(frozen=True)
class Comparison:
    """Entries of two answers, side by side."""

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    entries: int = 0
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
        return self.shapes[0] == self.shapes[1] and self.ties + self.rounding + self.real == 0


def compare_gold(a: Neighbors, b: Neighbors) -> Comparison:
    """Count the entries in which two answers differ: ties, rounding, real differences."""
    shapes = a.ids.shape, b.ids.shape
    if shapes[0] != shapes[1]:
        return Comparison(shapes)
    x, y = a.dists.astype(np.float64), b.dists.astype(np.float64)
    apart = x != y
    # NaN is unequal to itself and no rounding of anything: a real difference.
    near = np.isfinite(x) & np.isfinite(y)
    largest = np.maximum(1.0, np.maximum(np.abs(x[near]), np.abs(y[near])))
    near[near] = np.abs(x[near] - y[near]) <= ROUNDING * largest
    ties, rounding, real = ~apart & (a.ids != b.ids), apart & near, apart & ~near
    worst = next((kind for kind in (real, rounding, ties) if kind.any()), None)
    first = None if worst is None else tuple(int(i) for i in np.argwhere(worst)[0])
    return Comparison(shapes, a.ids.size, int(ties.sum()), int(rounding.sum()), int(real.sum()), first)  # type: ignore[arg-type]
