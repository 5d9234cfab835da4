"""A block of rows on a GPU, on a stream of the thread's own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cupy as cp
import numpy as np

from gpuknn.engine.bound import power_of_two_below
from gpuknn.engine.cuda.kernels import THREADS, Kernels
from gpuknn.engine.cuda.product import in_true_float64, product
from gpuknn.engine.cuda.table import WIDEN
from gpuknn.engine.metric import summation_leaves
from gpuknn.engine.projecting import GRID, MOST, PLAIN, Axes, Check, References, halves_of

_round = cp.ElementwiseKernel(
    "T x, float64 factor", "float64 out", "out = rint(widen(x) * factor) * 0x1p-24", "unit_rows", preamble=WIDEN
)
_scale = cp.ElementwiseKernel(
    "T x, float64 factor", "float32 out", "out = (float)(widen(x) * factor)", "scale_rows", preamble=WIDEN
)


@dataclass(frozen=True, eq=False)
class CudaBlock:
    """`engine.projecting.Block` by CuPy, on the current device and stream."""

    rows: Any
    """(m, d) on the device, as stored."""
    check: Check
    kernels: Kernels
    uploaded: Callable[[Axes | References, str], Any]
    """An array of a model, on the device."""

    def coordinates(self, axes: Axes) -> np.ndarray:
        """(m, D) float32; the last rounding is the host's, for that of the device makes small numbers zero."""
        with in_true_float64():
            sums = (self._unit() @ self.uploaded(axes, "components").T).get()
        found: np.ndarray = (sums - axes.offset).astype(np.float32)
        return found

    def sketches(self, references: References) -> np.ndarray:
        """(m, bits / 64) uint64."""
        (m, d), vectors = self.rows.shape, self.uploaded(references, "vectors")
        scaled = _scale(self.rows, cp.asarray(1.0 / np.sqrt(self._norms()))[:, None])
        scores = cp.empty((m, len(vectors)), np.float32)
        product(scaled, vectors, scores)
        leaves, out = cp.asarray(summation_leaves(d)), cp.empty((m, len(vectors) // 8), np.uint8)
        self.kernels.launch(
            f"compare_references_{self.rows.dtype.name}",
            (min(m, 2**16),),
            *(self.rows, m, d, vectors, len(vectors), scores, references.sure, leaves, len(leaves)),
            *(references.single, out),
        )
        found: np.ndarray = out.get()
        return found.view(np.uint64)

    def moments(self, shift: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Sums (d,) and (d, d), on the host."""
        return _moments(self._unit() - cp.asarray(shift))

    def _unit(self) -> Any:
        """(m, d) float64 on the device: the rows of unit length."""
        norms, (m, d) = self._norms(), self.rows.shape
        if self.rows.dtype != np.float16:
            return _round(self.rows, cp.asarray(GRID / np.sqrt(norms))[:, None])
        out = cp.empty((m, d))
        factor = cp.asarray(power_of_two_below(np.sqrt(norms)))
        self.kernels.launch("unit_halves", (_blocks(8 * m),), self.rows, m, d, *PLAIN, factor, out)
        return out

    def _norms(self) -> np.ndarray:
        """(m,) float64, on the host: squared lengths, checked."""
        m, d = self.rows.shape
        norms, leaves = cp.empty(m), cp.asarray(summation_leaves(d))
        of_rows = self.rows, m, d, leaves, len(leaves), norms
        self.kernels.launch(f"squared_norms_{self.rows.dtype.name}", (_blocks(8 * m),), *of_rows)
        found: np.ndarray = norms.get()
        self.check(found)
        return found


def _moments(centred: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    with in_true_float64():
        products = (centred.T @ centred).get()
    if products.diagonal().max() < MOST:
        return [(centred.sum(axis=0).get(), products)]
    return [sums for part in halves_of(len(centred)) for sums in _moments(centred[part])]


def _blocks(threads: int) -> int:
    return min(-(-threads // THREADS), 2**16)
