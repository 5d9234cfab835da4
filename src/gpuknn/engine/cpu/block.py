"""A block of rows on the processor, for one thread."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gpuknn.engine.bound import power_of_two_below
from gpuknn.engine.cpu import kernels
from gpuknn.engine.metric import summation_leaves
from gpuknn.engine.projecting import GRID, MOST, PLAIN, POOL, Axes, Check, References, halves_of


@dataclass(frozen=True, eq=False)
class CpuBlock:
    """`engine.projecting.Block` by NumPy and Numba."""

    rows: np.ndarray
    """(m, d) as stored."""
    check: Check

    def coordinates(self, axes: Axes) -> np.ndarray:
        """(m, D) float32."""
        found: np.ndarray = (self.unit() @ axes.components.T - axes.offset).astype(np.float32)
        return found

    def sketches(self, references: References) -> np.ndarray:
        """(m, bits / 64) uint64."""
        scaled = np.empty(self.rows.shape, np.float32)
        kernels.widen(self.rows, 1.0 / np.sqrt(self._norms()), scaled)
        scores = scaled @ references.vectors.T
        out = np.empty((len(self.rows), len(references.vectors) // POOL), np.uint64)
        leaves = _leaves(self.rows.shape[1])
        kernels.compare_references(
            *(self.rows, references.vectors, scores, references.sure, leaves, references.single, out)
        )
        return out

    def moments(self, shift: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Sums (d,) and (d, d)."""
        centred = self.unit()
        centred -= shift
        return _moments(centred)

    def unit(self) -> np.ndarray:
        """(m, d) float64: the rows of unit length."""
        out, rows = np.empty(self.rows.shape), self.rows
        if rows.dtype != np.float16:
            kernels.unit_rows(rows, GRID / np.sqrt(self._norms()), out)
            return out
        sums, (low, high) = np.empty(len(rows)), PLAIN
        kernels.unit_halves(rows, np.ones(len(rows)), sums, out)
        others = np.flatnonzero(~((sums >= low) & (sums < high)))
        if len(others):
            factor, again = power_of_two_below(np.sqrt(self._norms()[others])), np.empty((len(others), rows.shape[1]))
            kernels.unit_halves(rows[others], factor, sums[: len(others)], again)
            out[others] = again
        return out

    def _norms(self) -> np.ndarray:
        """(m,) float64: squared lengths, checked."""
        norms = np.empty(len(self.rows))
        kernels.squared_norms(self.rows, _leaves(self.rows.shape[1]), norms)
        self.check(norms)
        return norms


@lru_cache
def _leaves(d: int) -> np.ndarray:
    return summation_leaves(d)


def _moments(centred: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    products = centred.T @ centred  # NumPy has BLAS make one half of it
    if products.diagonal().max() < MOST:
        return [(centred.sum(axis=0), products)]
    return [sums for part in halves_of(len(centred)) for sums in _moments(centred[part])]
