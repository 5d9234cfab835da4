"""The CPU's filters: ways to score all pairs, each with its own proven error.

A filter prepares an epoch of rows and then scores tiles of it.  float32 goes through BLAS; int8 through onnxruntime,
where that is installed and the processor multiplies 8-bit integers without saturating; hamming counts bits.  The answer
does not depend on which of them was used.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from gpuknn.exact import cpu_kernels as kernels
from gpuknn.exact.bound import Filter, Quantised, filter_for
from gpuknn.exact.int8 import Int8Product
from gpuknn.exact.metric import Metric

InParallel = Callable[[Callable[[slice], None], int], None]
Product = Callable[[slice, slice, np.ndarray], None]
"""Scores of a block of queries with a tile of the epoch's rows, into (b, t) float32."""


class Scores(Protocol):
    """A filter of one search."""

    @property
    def method(self) -> str:
        """What it is, for the certificate."""

    def prepare(self, rows: np.ndarray, norms: np.ndarray) -> tuple[Filter, Product]:
        """The bound and the product for an epoch (m, d), as stored (float16 as uint16), of squared norms (m,)."""


class Choice:
    """Which filter is next: the first one to begin with, then the second on trial, then the cheaper.

    The second (int8) stays as long as its product with half of what it took to select and refine is less than the
    first one's product alone: half, because thresholds tighten and less will pass.  Where it was dearer it is tried
    again when there are four times as many rows.
    """

    def __init__(self, filters: Sequence[Scores]) -> None:
        self._filters = filters
        self._rows = 0
        self._retry_at = 0
        self._product = 0.0
        self._second = False

    def next(self) -> Scores:
        """The filter for the next epoch."""
        self._second = len(self._filters) > 1 and self._rows > 0 and self._rows >= self._retry_at
        return self._filters[self._second]

    def learn(self, rows: int, seconds: dict[str, float]) -> None:
        """Take in what an epoch of so many rows cost, by stage."""
        self._rows += rows
        if not self._second:
            self._product = seconds["product"] / rows
        elif seconds["product"] + (seconds["select"] + seconds["refine"]) / 2 > self._product * rows:
            self._retry_at = 4 * self._rows


class Float32Scores:
    """Scaled queries and rows multiplied in float32."""

    method = "float32 scores, float64 refinement"

    def __init__(self, metric: Metric, queries: np.ndarray, norms: np.ndarray, in_parallel: InParallel) -> None:
        self._metric, self._queries, self._norms, self._in_parallel = metric, queries, norms, in_parallel
        self._factor: np.ndarray | None = None
        self._scaled = np.empty(queries.shape, np.float32)
        self._wide = np.empty((0, queries.shape[1]), np.float32)

    def prepare(self, rows: np.ndarray, norms: np.ndarray) -> tuple[Filter, Product]:
        """Convert and scale the rows; the queries too, where their scale has changed."""
        m, d = rows.shape
        bound = filter_for(self._metric, d, self._norms, norms)
        if len(self._wide) < m:
            self._wide = np.empty((m, d), np.float32)
        wide, factor = self._wide[:m], bound.row_factor
        self._in_parallel(lambda s: kernels.widen(rows[s], factor[s], wide[s]), m)
        if self._factor is None or not np.array_equal(self._factor, bound.query_factor):
            self._factor = bound.query_factor
            kernels.widen(self._queries, self._factor, self._scaled)

        def product(block: slice, tile: slice, out: np.ndarray) -> None:
            np.matmul(self._scaled[block], wide[tile].T, out=out)

        return bound, product


class Int8Scores:
    """Scaled queries, and rows less their mean, rounded to 8 bits each with a scale of its own."""

    method = "int8 scores, float64 refinement"

    def __init__(
        self,
        metric: Metric,
        queries: np.ndarray,
        norms: np.ndarray,
        in_parallel: InParallel,
        tile_rows: int,
        multiply: Int8Product,
    ) -> None:
        self._metric, self._queries, self._norms, self._in_parallel = metric, queries, norms, in_parallel
        self._tile_rows, self._multiply = tile_rows, multiply
        self._centre: np.ndarray | None = None
        self._factor: np.ndarray | None = None

    def prepare(self, rows: np.ndarray, norms: np.ndarray) -> tuple[Filter, Product]:
        """Round the rows and lay them out by tiles, components first; round the queries."""
        m, d = rows.shape
        scales = filter_for(self._metric, d, self._norms, norms)
        if self._centre is None:
            # Any vector is a valid centre; the mean of some rows takes out what all have in common.
            some = np.empty((min(m, 4096), d), np.float32)
            kernels.widen(rows[: len(some)], scales.row_factor[: len(some)], some)
            self._centre = some.mean(axis=0, dtype=np.float64)
        centre = self._centre
        tiles = np.empty((-(-m // self._tile_rows), d, self._tile_rows), np.int8)
        row_scale, spread, residual = np.empty(m, np.float32), np.empty(m), np.empty(m)

        def round_tiles(some: slice) -> None:
            for i in range(some.start, some.stop):
                part = slice(i * self._tile_rows, min((i + 1) * self._tile_rows, m))
                rounded = np.zeros((self._tile_rows, d), np.int8)
                factor = scales.row_factor[part]
                kernels.quantise(rows[part], factor, centre, rounded, row_scale[part], spread[part], residual[part])
                tiles[i] = rounded.T

        self._in_parallel(round_tiles, len(tiles))
        if self._factor is None or not np.array_equal(self._factor, scales.query_factor):
            self._round_queries(scales.query_factor, centre)
        quantised = Quantised(self._query_residual, float(np.linalg.norm(centre)), spread, residual)
        bound = filter_for(self._metric, d, self._norms, norms, quantised)

        def product(block: slice, tile: slice, out: np.ndarray) -> None:
            sums = self._multiply(self._rounded[block], tiles[tile.start // self._tile_rows])
            kernels.scale_sums(sums, row_scale[tile], self._query_scale[block], self._offset[block], out)

        return bound, product

    def _round_queries(self, factor: np.ndarray, centre: np.ndarray) -> None:
        """Round the scaled queries; one operand of the product is unsigned, so they are raised by 128."""
        nq, d = self._queries.shape
        rounded = np.empty((nq, d), np.int8)
        self._query_scale = np.empty(nq, np.float32)
        residual, nowhere, ignored = np.empty(nq), np.zeros(d), np.empty(nq)
        self._in_parallel(
            lambda s: kernels.quantise(
                self._queries[s], factor[s], nowhere, rounded[s], self._query_scale[s], ignored[s], residual[s]
            ),
            nq,
        )
        self._factor = factor
        self._rounded = rounded.view(np.uint8) ^ np.uint8(128)
        self._offset = ((self._queries @ centre) * factor).astype(np.float32)
        self._query_residual = float(residual.max())


class HammingScores:
    """Minus the number of differing bits; exact."""

    method = "integer scores, exact"

    def __init__(self, queries: np.ndarray) -> None:
        self._queries = queries

    def prepare(self, rows: np.ndarray, norms: np.ndarray) -> tuple[Filter, Product]:
        """Lay the rows out word by word, so that one instruction meets many rows."""
        columns = np.ascontiguousarray(rows.T)

        def product(block: slice, tile: slice, out: np.ndarray) -> None:
            kernels.hamming_scores(self._queries[block], columns[:, tile], out)

        return filter_for(Metric.HAMMING, rows.shape[1], np.zeros(len(self._queries)), norms), product
