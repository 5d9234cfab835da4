"""Rows in hand of the processor, in one thread; BLAS has to be held to one thread (`device.ONE_BLAS_THREAD`)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gpuknn.engine.cpu import kernels
from gpuknn.engine.metric import summation_leaves
from gpuknn.engine.projecting import MOST, Axes, References, parts_of, unit_factor


@dataclass(frozen=True, eq=False)
class CpuBlock:
    """`engine.projecting.Block` by NumPy and Numba."""

    rows: np.ndarray
    """(m, d) as stored."""

    @cached_property
    def norms(self) -> np.ndarray:
        """(m,) float64: squared lengths."""
        norms = np.empty(len(self.rows))
        kernels.squared_norms(self.rows, summation_leaves(self.rows.shape[1]), norms)
        return norms

    def coordinates(self, axes: Axes) -> np.ndarray:
        """(m, D) float32."""
        found: np.ndarray = (self.unit() @ axes.components.T - axes.offset).astype(np.float32)
        return found

    def sketches(self, references: References) -> np.ndarray:
        """(m, bits / 64) uint64."""
        scaled = np.empty(self.rows.shape, np.float32)
        kernels.widen(self.rows, 1.0 / np.sqrt(self.norms), scaled)
        scores = scaled @ references.vectors.T
        out = np.empty((len(self.rows), len(references.vectors) // 64), np.uint64)
        leaves = summation_leaves(self.rows.shape[1])
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
        out = np.empty(self.rows.shape)
        divide = kernels.unit_halves if self.rows.dtype == np.float16 else kernels.unit_rows
        divide(self.rows, unit_factor(self.rows.dtype, self.norms), out)
        return out


def _moments(centred: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    products = centred.T @ centred  # NumPy has BLAS make one half of it
    if products.diagonal().max() < MOST:
        return [(centred.sum(axis=0), products)]
    return [sums for part in parts_of(len(centred)) for sums in _moments(centred[part])]
