"""The memory that a search takes on the host and on the device."""

import cupy as cp
import cupyx
import numpy as np


class Slot:
    """The way of one epoch to the device."""

    def __init__(self, rows: int, components: int, dtype: np.dtype, queries: int) -> None:
        self.host = cupyx.empty_pinned((rows, components), dtype)
        self.rows = cp.empty((rows, components), dtype)
        self.norms = cp.empty(rows, np.float64)
        self.host_norms = cupyx.empty_pinned(rows, np.float64)
        self.of_rows = cupyx.empty_pinned((3, rows), np.float32)  # scale, bias, error
        self.to_score = cupyx.empty_pinned((queries, 3), np.float64)
        self.slack = cupyx.empty_pinned(queries, np.float32)
        self.loaded, self.used = (cp.cuda.Event(disable_timing=True) for _ in range(2))


class Room:
    """What the compute stream works in: scores, candidates of which `settle` leaves `level`, the answers so far."""

    def __init__(self, rows: int, tile: int, sweep: int, level: int, nq: int, k: int, d: int, low: bool) -> None:
        self.tile, self.sweep, self.level = tile, sweep, level
        self.room = self.level + sweep
        self.scores = cp.empty(nq * tile, np.float32)
        self.low = cp.empty((tile, d), np.float16) if low else None
        self.of_rows = cp.empty((3, rows), np.float32)
        self.to_score, self.slack = cp.empty((nq, 3), np.float64), cp.empty(nq, np.float32)
        self.threshold, self.held = cp.empty(nq, np.float32), cp.empty(nq, np.int32)
        self.score, self.row = cp.empty((nq, self.room), np.float32), cp.empty((nq, self.room), np.int32)
        self.exact = cp.empty((nq, self.room), np.float64)
        self.dists, self.ids = cp.full((nq, k), np.inf), cp.full((nq, k), -1, np.int64)
        self.filled = cp.zeros(nq, np.int32)
        self.spare_dists, self.spare_ids = cp.empty((nq, k)), cp.empty((nq, k), np.int64)
        self.sums, self.lost = cp.zeros(2, np.uint64), cp.zeros(1, np.uint64)
