"""The CPU's filters: ways to score all pairs, each with its own proven error.

A filter prepares an epoch of rows and then scores tiles of it.  float32 goes through BLAS; int8 through onnxruntime,
where that is installed, with a second look in float32 at whatever passes; hamming counts bits.  The answer does not
depend on which of them was used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from gpuknn.engine.bound import Filter, Quantised, filter_for
from gpuknn.engine.cpu import kernels
from gpuknn.engine.cpu.int8 import Int8Product
from gpuknn.engine.metric import Metric

InParallel = Callable[[Callable[[slice], None], int], None]


class Candidates(NamedTuple):
    """What one block of queries has passed on; `kernels/candidates.py` says what the arrays are."""

    threshold: np.ndarray
    held: np.ndarray
    score: np.ndarray
    row: np.ndarray


Select = Callable[[np.ndarray, slice, slice, int, np.ndarray, Candidates, np.ndarray], int]
"""(product, block, tile, first, itself, candidates, sums): see `kernels.select`, `kernels.measure`."""


@dataclass(frozen=True)
class Prepared:
    """An epoch, ready to be scored; blocks are of queries, tiles of the epoch's rows."""

    filter: Filter
    """The bound on the scores that are kept."""
    error: float
    """The largest proven error of a score, kept or not."""
    product: Callable[[slice, slice, np.ndarray], np.ndarray]
    """Multiplies a block with a tile, in the room given, (b, t) float32, or elsewhere."""
    select: Select
    """Appends the rows that pass; returns the most candidates that a query then has."""


class Scores(Protocol):
    """A filter of one search."""

    @property
    def method(self) -> str:
        """What it is, for the certificate."""

    def prepare(self, rows: np.ndarray, norms: np.ndarray) -> Prepared:
        """An epoch (m, d), as stored, of squared norms (m,)."""


class Choice:
    """Which filter is next: the first one to begin with, then the second on trial, then the cheaper.

    The second (int8) stays as long as it takes less than the first; its cost falls as thresholds tighten.  Where it was
    dearer it is tried again when there are four times as many rows.
    """

    def __init__(self, filters: Sequence[Scores]) -> None:
        self._filters = filters
        self._rows = 0
        self._retry_at = 0
        self._first = 0.0
        self._second = False

    def next(self) -> Scores:
        """The filter for the next epoch."""
        self._second = len(self._filters) > 1 and self._rows > 0 and self._rows >= self._retry_at
        return self._filters[self._second]

    def learn(self, rows: int, seconds: dict[str, float]) -> None:
        """Take in what an epoch of so many rows cost, by stage."""
        self._rows += rows
        spent = (seconds["converting"] + seconds["product"] + seconds["select"]) / rows
        if not self._second:
            self._first = spent
        elif spent > self._first:
            self._retry_at = 4 * self._rows


class Float32Scores:
    """Scaled queries and rows multiplied in float32."""

    method = "float32 scores, float64 refinement"

    def __init__(self, metric: Metric, queries: np.ndarray, norms: np.ndarray, in_parallel: InParallel) -> None:
        self._metric, self._queries, self._norms, self._in_parallel = metric, queries, norms, in_parallel
        self._factor: np.ndarray | None = None
        self.scaled_queries = np.empty(queries.shape, np.float32)
        self.scaled_rows = np.empty((0, queries.shape[1]), np.float32)

    def prepare(self, rows: np.ndarray, norms: np.ndarray) -> Prepared:
        """Convert and scale the rows; the queries too, where their scale has changed."""
        m, d = rows.shape
        bound = filter_for(self._metric, d, self._norms, norms)
        if len(self.scaled_rows) < m:
            self.scaled_rows = np.empty((m, d), np.float32)
        wide, factor = self.scaled_rows, bound.row_factor
        self._in_parallel(lambda s: kernels.widen(rows[s], factor[s], wide[s]), m)
        if self._factor is None or not np.array_equal(self._factor, bound.query_factor):
            self._factor = bound.query_factor
            # As `widen` does it: the product is rounded in float64, then to float32.
            np.multiply(self._queries, self._factor[:, None], out=self.scaled_queries, casting="same_kind")

        def product(block: slice, tile: slice, room: np.ndarray) -> np.ndarray:
            return np.matmul(self.scaled_queries[block], wide[tile].T, out=room)

        return Prepared(bound, float(bound.error.max()), product, _select_by(bound.bias))


class Int8Scores:
    """Scaled queries and rows, less a centre of each, rounded to 8 bits with a scale of each one's own."""

    method = "int8 scores, float32 rescoring, float64 refinement"

    def __init__(
        self,
        metric: Metric,
        queries: np.ndarray,
        norms: np.ndarray,
        in_parallel: InParallel,
        tile_rows: int,
        multiply: Int8Product,
        fine: Float32Scores,
    ) -> None:
        self._metric, self._queries, self._norms, self._in_parallel = metric, queries, norms, in_parallel
        self._tile_rows, self._int8, self._fine = tile_rows, multiply, fine
        self._centre: np.ndarray | None = None
        self._factor: np.ndarray | None = None
        self._tiles = np.empty((0, 0, 0), np.int8)

    def prepare(self, rows: np.ndarray, norms: np.ndarray) -> Prepared:
        """Round the rows and lay them out by tiles, components first; round the queries."""
        m, d = rows.shape
        fine, wide = self._fine.prepare(rows, norms).filter, self._fine.scaled_rows
        if self._centre is None:
            # Any vector is a valid centre; the mean of some rows takes out what all have in common.
            self._centre = wide[: min(m, 4096)].mean(axis=0)
        if self._factor is None or not np.array_equal(self._factor, fine.query_factor):
            self._round_queries(fine.query_factor, self._centre)
        count = -(-m // self._tile_rows)
        if len(self._tiles) < count:
            self._tiles = np.empty((count, d, self._tile_rows), np.int8)
        tiles = self._tiles
        scale, offset, spread, residual = np.empty((4, m), np.float32)

        def round_tiles(some: slice) -> None:
            for i in range(some.start, some.stop):
                part = slice(i * self._tile_rows, min((i + 1) * self._tile_rows, m))
                rounded = np.zeros((self._tile_rows, d), np.int8)
                found = rounded, scale[part], offset[part], spread[part], residual[part]
                kernels.quantise(wide[part], self._centre, self._query_centre, np.float32(self._int8.largest), *found)
                tiles[i] = rounded.T

        self._in_parallel(round_tiles, count)
        centres = float(np.linalg.norm(self._query_centre)), float(np.linalg.norm(self._centre))
        quantised = Quantised(self._query_residual, self._query_spread, *centres, spread, residual)
        bound = filter_for(self._metric, d, self._norms, norms, quantised.error)
        unscaled = (
            (rows, fine.row_factor.astype(np.float32)) if rows.dtype == np.float16 else (wide, np.ones(m, np.float32))
        )
        tolerance = bound.error + fine.error

        def product(block: slice, tile: slice, room: np.ndarray) -> np.ndarray:
            return self._int8.multiply(self._rounded[block], tiles[tile.start // self._tile_rows])

        def select(
            product: np.ndarray,
            block: slice,
            tile: slice,
            first: int,
            itself: np.ndarray,
            candidates: Candidates,
            sums: np.ndarray,
        ) -> int:
            of_rows = scale[tile], offset[tile], bound.bias[tile], tolerance[tile]
            of_queries = self._query_scale[block], self._query_offset[block]
            again = *(a[tile] for a in unscaled), self._fine.scaled_queries[block]
            state = first, fine.bias, itself, *candidates, sums
            most: int = kernels.select_coarse(product, tile.start, *of_rows, *of_queries, *again, *state)
            return most

        return Prepared(fine, float(bound.error.max()), product, select)

    def _round_queries(self, factor: np.ndarray, row_centre: np.ndarray) -> None:
        """Round the scaled queries; one operand of the product is unsigned, so they are raised by 128."""
        queries = self._fine.scaled_queries
        nq, d = self._queries.shape
        centre = queries.mean(axis=0)
        rounded = np.empty((nq, d), np.int8)
        scale, offset, spread, residual = np.empty((4, nq), np.float32)

        def round_some(s: slice) -> None:
            found = rounded[s], scale[s], offset[s], spread[s], residual[s]
            kernels.quantise(queries[s], centre, row_centre, np.float32(127.0), *found)

        self._in_parallel(round_some, nq)
        self._factor, self._query_centre = factor, centre
        self._rounded = rounded.view(np.uint8) ^ np.uint8(128)
        self._query_scale = scale
        self._query_offset = offset + centre @ row_centre
        self._query_residual, self._query_spread = float(residual.max()), float(spread.max())


class HammingScores:
    """Minus the number of differing bits; exact."""

    method = "integer scores, exact"

    def __init__(self, queries: np.ndarray) -> None:
        self._queries = np.ascontiguousarray(queries)

    def prepare(self, rows: np.ndarray, norms: np.ndarray) -> Prepared:
        """Lay the rows out word by word, so that one instruction meets many rows."""
        columns = np.ascontiguousarray(rows.T)

        def product(block: slice, tile: slice, room: np.ndarray) -> np.ndarray:
            kernels.hamming_scores(self._queries[block], columns[:, tile], room)
            return room

        exact = filter_for(Metric.HAMMING, rows.shape[1], np.zeros(len(self._queries)), norms)
        return Prepared(exact, 0.0, product, _select_by(exact.bias))


def _select_by(bias: np.ndarray) -> Select:
    """The selection from scores, which with `bias` are upper bounds."""

    def select(
        scores: np.ndarray,
        block: slice,
        tile: slice,
        first: int,
        itself: np.ndarray,
        candidates: Candidates,
        sums: np.ndarray,
    ) -> int:
        most: int = kernels.select(scores, tile.start, first, bias, itself, *candidates)
        return most

    return select
