"""The CPU device: BLAS through NumPy for the scores, Numba kernels for everything else.

One Python thread per core takes blocks of queries through product, selection and refinement; BLAS is held to one
thread.  BLAS threads and parallel Numba kernels in one process would spin against each other; this way nothing
but the rows is shared between threads, and a tile's scores stay in the core's cache until they are selected.

Rows are refined by the epoch, not by the tile: candidates that later rows push out are never refined.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from queue import SimpleQueue

import numpy as np
from threadpoolctl import OpenBLASController, threadpool_limits

from gpuknn.engine.bound import ROUNDING, proven_score
from gpuknn.engine.cpu import kernels
from gpuknn.engine.cpu.block import CpuBlock
from gpuknn.engine.cpu.int8 import Int8Product, int8_product
from gpuknn.engine.cpu.needed import Needed, for_search
from gpuknn.engine.cpu.scores import Candidates, Choice, Float32Scores, HammingScores, Int8Scores, Prepared
from gpuknn.engine.device import BlockOf, Search
from gpuknn.engine.metric import Metric, summation_leaves
from gpuknn.engine.neighbors import Certificate, Neighbors
from gpuknn.errors import RunError
from gpuknn.shared import Shared
from gpuknn.vectors import Vectors

TILE_ROWS = 512
"""Rows of one product; with BLOCK_QUERIES, 2 MiB of scores, which stay in a core's cache until selected."""
BLOCK_QUERIES = 1024
EPOCH_VALUES = 2**25
"""Components of the rows in hand: 128 MiB as float32."""
EPOCH_OPERATIONS = 2e11
"""Multiplications and additions of an epoch for each core: an interrupt waits for the end of one, some 2 s."""
EPOCH_ROWS = 2**12
"""Of an epoch, at least, even if there are millions of queries: each epoch looks at the state of all of them."""
INT8_WORTH = 64
"""With fewer queries or components the product is not what takes the time, and rounding to 8 bits does not pay."""
FIRST_ROWS = 2**13
"""Rows of each of the first two epochs, where k is small."""
CANDIDATE_BYTES = 2**25
"""Bound on one thread's room for candidates."""
MEASURED_SHARE = 16
"""A sixteenth of a block's queries have their candidates measured before these are kept."""


@dataclass(frozen=True)
class CpuDevice:
    """The processor, with so many threads."""

    threads: int
    filter_name: str = "auto"
    """float32, int8, or auto: int8 where that can be had and pays."""

    @property
    def name(self) -> str:
        """What a person calls it."""
        return f"cpu ({self.threads} thread{'s' * (self.threads > 1)})"

    kind = "cpu"
    readers = 1

    @property
    def units(self) -> int:
        """Cores."""
        return self.threads

    @property
    def resources(self) -> dict[str, int]:
        """None: Dask counts cores by itself."""
        return {}

    def here(self, threads: int, number: int) -> "CpuDevice":
        """With the worker's threads if they are more: a plan counts on the least that any worker has."""
        return replace(self, threads=max(threads, self.threads))

    def memory(self, queries: int, k: int, components: int, itemsize: int = 8) -> int:
        """Bytes that a search takes at most.

        Rows twice as stored (`itemsize` bytes a component), as float32 and as int8; the threads' scores, twice, and
        candidates; queries as read, in float64, float32 and twice in int8, with their neighbours and the result made
        of them.
        """
        rows = _epoch_rows(components) * components * (2 * itemsize + 4 + 1)
        candidates = max(CANDIDATE_BYTES, 8 * _room(k)) * (MEASURED_SHARE + 1) // MEASURED_SHARE + 48 * _room(k)
        spaces = self.threads * (2 * 4 * BLOCK_QUERIES * TILE_ROWS + candidates)
        return rows + spaces + queries * (components * (8 + 8 + 4 + 2) + k * (16 + 8))

    def most_queries(self, k: int, components: int) -> int:
        """No limit but that of `memory`."""
        return sys.maxsize

    def kernels(self, metric: Metric, rows: Vectors, queries: Vectors, k: int) -> list[Needed]:
        """Those of the check, and of the filters that such a search tries."""
        int8 = _int8_product(self.filter_name, queries.shape, len(rows), k)
        return for_search(metric, rows.dtype, queries.dtype, int8 is not None)

    def resident(self, rows: Vectors) -> None:
        """None: rows are read ahead, wherever they lie."""

    @contextmanager
    def blocks(self) -> Iterator[BlockOf]:
        """What makes blocks of rows; BLAS is held to one thread meanwhile."""
        with ONE_BLAS_THREAD():
            yield lambda rows, check: nullcontext(CpuBlock(rows, check))

    @contextmanager
    def begin(self, search: Search, components_as: np.dtype) -> Iterator["CpuScan"]:
        """Start a search with its own threads; BLAS is held to one thread meanwhile."""
        with ONE_BLAS_THREAD(), ThreadPoolExecutor(self.threads) as pool:
            yield CpuScan(search, components_as, pool, self.threads, self.filter_name)


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread."""
    _let_any_thread_limit()
    limits = threadpool_limits(1, user_api="blas")
    try:
        yield
    finally:
        _let_any_thread_limit()
        limits.restore_original_limits()
        _let_any_thread_limit()


def _let_any_thread_limit() -> None:
    """Let this thread set the limit: threadpoolctl 3.8 silently ignores all but the one that first set OpenBLAS's."""
    if hasattr(OpenBLASController, "clear_controlling_thread"):
        OpenBLASController.clear_controlling_thread(force=True)


ONE_BLAS_THREAD = Shared(_one_blas_thread)
"""As long as any search of this process is under way."""


@dataclass(frozen=True)
class _Epoch:
    """The rows in hand."""

    rows: np.ndarray
    """(m, d) as stored."""
    norms: np.ndarray
    """(m,) float64: |x|^2."""
    first: int
    """The id of the first row."""
    prepared: Prepared


class _Space:
    """One thread's room for the scores of a tile and for candidates, and the seconds it spent in each stage."""

    def __init__(self, queries: int, k: int) -> None:
        room = _room(k)
        self.scores = np.empty((queries, TILE_ROWS), np.float32)
        self.candidates = Candidates(
            threshold=np.empty(queries, np.float32),
            held=np.empty(queries, np.int64),
            score=np.zeros((queries, room + 1), np.float32),  # hamming widens those beyond `held`, too
            row=np.empty((queries, room + 1), np.int32),
        )
        self.proven = np.empty(k + room, np.float32)
        self.exact = np.empty((max(1, queries // MEASURED_SHARE), room + 1))
        self.new = np.empty((2, room + 1)), np.empty((2, room + 1), np.int64)
        self.sums = np.array([0.0, 1.0])
        """Pairs refined; the smallest share of the proven error that scores left unused."""
        self.product = self.select = self.refine = 0.0


class CpuScan:
    """The exact answer for the rows fed so far, in memory."""

    def __init__(
        self, search: Search, components_as: np.dtype, pool: ThreadPoolExecutor, threads: int, filter_name: str
    ) -> None:
        nq, d = search.queries.shape
        k = search.k
        self._search, self._pool, self._threads = search, pool, threads
        # Not a method: filters keep it, and a circle of references would outlive the search by its whole memory.
        self._in_parallel = partial(_in_parallel, pool, threads)
        self._hamming = search.metric is Metric.HAMMING
        self._metric, self._single = list(Metric).index(search.metric), search.dists == np.float32
        self._leaves = summation_leaves(d)
        # Hamming compares words; its queries have no components to be refined by.
        self._queries = np.zeros((nq, 1)) if self._hamming else np.ascontiguousarray(search.queries, np.float64)
        self._norms = np.empty(nq)
        if not self._hamming:
            self._in_parallel(lambda s: kernels.squared_norms(search.queries[s], self._leaves, self._norms[s]), nq)
        self._dists = np.full((nq, k), np.inf)
        self._ids = np.full((nq, k), -1, np.int64)
        self._filled = np.zeros(nq, np.int64)
        self._floor = np.full(nq, np.inf if search.floor is None else search.floor)
        ids = np.arange(nq, dtype=np.int64)
        self._itself = np.full(nq, -1) if search.first_id is None else search.first_id + ids
        self._bound = 0.0
        self._methods: list[str] = []
        self._filter_name = filter_name

        room = _room(k)
        block = max(1, min(BLOCK_QUERIES, CANDIDATE_BYTES // (8 * room)))
        self._blocks = _even_slices(nq, threads * -(-nq // (threads * block)))
        widest = max(s.stop - s.start for s in self._blocks)
        self._all_spaces = [_Space(widest, k) for _ in range(threads)]
        self._spaces: SimpleQueue[_Space] = SimpleQueue()
        for space in self._all_spaces:
            self._spaces.put(space)
        self._preparing = 0.0
        self._row_type = components_as
        self._buffers: list[np.ndarray] = []

    def epochs(self, extent: range) -> list[range]:
        """The runs of rows that `feed` takes: whole tiles, the first ones shorter.

        At most EPOCH_VALUES, and EPOCH_OPERATIONS unless that were fewer than EPOCH_ROWS.
        Thresholds are known from the first, filters are tried in the first two, and each run is no longer than all
        before it, so that its thresholds are not far from those of its end.
        """
        nq, components = self._search.queries.shape
        each = 2 * nq * components * (64 if self._hamming else 1)  # a word counts as its 64 bits
        quick = int(EPOCH_OPERATIONS * self._threads / each) // TILE_ROWS * TILE_ROWS
        full = min(_epoch_rows(components), max(EPOCH_ROWS, quick))
        short = min(_first_rows(self._search.k, components), full)
        edges = [extent.start]
        while edges[-1] < extent.stop:
            before = edges[-1] - extent.start
            edges.append(min(edges[-1] + min(full, max(short, before)), extent.stop))
        self._choice = self._choose_scores(len(extent))
        runs = [range(a, b) for a, b in pairwise(edges)]
        longest = max(map(len, runs), default=0)
        self._buffers = [np.empty((longest, components), self._row_type) for _ in runs[:2]]
        return runs

    def buffer(self, number: int) -> np.ndarray:
        """One of two, which is free when the run before has been fed."""
        return self._buffers[number % 2]

    def feed(self, rows: np.ndarray, first: int) -> None:
        """Take in rows (m, d), the ids of which begin at `first`."""
        started = time.perf_counter()
        m = len(rows)
        norms = np.zeros(m)
        if not self._hamming:
            self._in_parallel(lambda s: kernels.squared_norms(rows[s], self._leaves, norms[s]), m)
        scores = self._choice.next()
        before = self.seconds
        prepared = scores.prepare(rows, norms)
        self._bound = max(self._bound, prepared.error)
        if scores.method not in self._methods:
            self._methods.append(scores.method)
        epoch = _Epoch(rows, norms, first, prepared)
        self._preparing += time.perf_counter() - started
        list(self._pool.map(lambda block: self._scan_block(block, epoch), self._blocks))
        self._choice.learn(m, {stage: spent - before[stage] for stage, spent in self.seconds.items()})

    feed_resident = feed

    def result(self) -> tuple[Neighbors, Certificate]:
        """The neighbours among all rows fed, and what proves them."""
        margin = min(float(space.sums[1]) for space in self._all_spaces)
        if not margin >= 0:
            raise RunError(
                f"a filter score was off by more than its proven error (margin {margin:.3g}): "
                "this machine's matrix product is not what it should be; please report it"
            )
        certificate = Certificate(
            method=", ".join(self._methods),
            bound=self._bound,
            pairs_refined=int(sum(space.sums[0] for space in self._all_spaces)),
            smallest_margin=margin,
        )
        return Neighbors(self._ids, self._dists.astype(self._search.dists)), certificate

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time went, summed over threads."""
        spaces = self._all_spaces
        return {
            "converting": self._preparing * self._threads,
            "product": sum(space.product for space in spaces),
            "select": sum(space.select for space in spaces),
            "refine": sum(space.refine for space in spaces),
        }

    def _scan_block(self, block: slice, epoch: _Epoch) -> None:
        """Take one block of queries through all rows of the epoch."""
        space = self._spaces.get()
        try:
            self._scan_block_in(space, block, epoch)
        finally:
            self._spaces.put(space)  # also after an error: another thread may be waiting for it

    def _scan_block_in(self, space: _Space, block: slice, epoch: _Epoch) -> None:
        """The same, in the room of one thread."""
        length = block.stop - block.start
        candidates = Candidates(*(array[:length] for array in space.candidates))
        room = candidates.score.shape[1] - 1
        flat, itself, prepared = space.scores.reshape(-1), self._itself[block], epoch.prepared
        clock = time.perf_counter
        candidates.threshold[:] = proven_score(self._floor[block], prepared.filter.to_score[block])
        candidates.held.fill(0)
        self._cut(-1, space, block, candidates, epoch)  # raises the thresholds to what is known before the epoch
        for start in range(0, len(epoch.rows), TILE_ROWS):
            tile = slice(start, min(start + TILE_ROWS, len(epoch.rows)))
            shape = (length, tile.stop - tile.start)
            tile_scores = flat[: shape[0] * shape[1]].reshape(shape)
            started = clock()
            product = prepared.product(block, tile, tile_scores)
            multiplied = clock()
            most = prepared.select(product, block, tile, epoch.first, itself, candidates, space.sums)
            if most > room - TILE_ROWS:
                self._settle((room + self._search.k) // 2, space, block, candidates, epoch)
            space.product += multiplied - started
            space.select += clock() - multiplied
        started = clock()
        self._settle(0, space, block, candidates, epoch)
        space.refine += clock() - started

    def _settle(self, limit: int, space: _Space, block: slice, candidates: Candidates, epoch: _Epoch) -> None:
        """Cut the candidates of queries with more than `limit`; if that leaves more, keep the nearest and hold none.

        With a limit of 0 no candidate is held any more.  A larger one is exceeded by ties by the thousand: slower,
        never wrong.
        """
        most = self._cut(limit, space, block, candidates, epoch)
        if most <= limit:
            return
        state = self._dists[block], self._ids[block], self._filled[block]
        of_rows = epoch.rows, epoch.norms, epoch.prepared.filter.error, self._leaves
        of_queries = self._queries[block], self._norms[block], epoch.prepared.filter.to_score[block]
        held, score, row = candidates.held, candidates.score, candidates.row
        for start in range(0, len(held), len(space.exact)):
            exact = space.exact[: len(held) - start]
            some = slice(start, start + len(exact))
            if self._hamming:  # the scores are exact
                exact[:, :most] = -score[some, :most]
                space.sums[0] += held[some].sum(where=held[some] > limit)
            else:
                kernels.measure(
                    *(self._metric, *of_rows, *of_queries, start, limit, held, score, row, exact, space.sums)
                )
            kernels.keep(start, limit, epoch.first, self._single, exact, held, row, *state, *space.new)

    def _cut(self, limit: int, space: _Space, block: slice, candidates: Candidates, epoch: _Epoch) -> int:
        """Raise the thresholds of queries with more than `limit` candidates and drop these; the most that are left."""
        bound = epoch.prepared.filter
        state = self._dists[block], self._filled[block]
        of_queries = bound.to_score[block], bound.slack[block]
        most: int = kernels.cut(limit, *state, *of_queries, ROUNDING, *candidates, space.proven)
        return most

    def _choose_scores(self, rows: int) -> Choice:
        """The filters there are for these data and so many rows."""
        if self._hamming:
            return Choice([HammingScores(self._search.queries)])
        data = self._search.metric, self._queries, self._norms, self._in_parallel
        multiply = _int8_product(self._filter_name, self._queries.shape, rows, self._search.k)
        if multiply is None:
            return Choice([Float32Scores(*data)])
        float32 = Float32Scores(*data)
        int8 = Int8Scores(*data, TILE_ROWS, multiply, float32)
        return Choice([int8] if self._filter_name == "int8" else [float32, int8])


def _in_parallel(pool: ThreadPoolExecutor, threads: int, work: Callable[[slice], None], n: int) -> None:
    """Do `work` on range(n), in slices."""
    list(pool.map(work, _even_slices(n, 4 * threads)))


def _epoch_rows(components: int) -> int:
    return max(1, EPOCH_VALUES // components // TILE_ROWS) * TILE_ROWS


def _first_rows(k: int, components: int) -> int:
    """Rows of the first epoch, at most."""
    return min(_epoch_rows(components), max(FIRST_ROWS, -(-64 * k // TILE_ROWS) * TILE_ROWS))


def _int8_product(filter_name: str, queries: tuple[int, ...], rows: int, k: int) -> Int8Product | None:
    """The product of the int8 filter, if it is to be tried and can be had; `queries`: their shape.

    Filters are tried in the first two epochs, so what they tell is of use only to rows after these.
    """
    enough = min(queries) >= INT8_WORTH and rows > 2 * _first_rows(k, queries[1])
    return int8_product() if filter_name == "int8" or (filter_name == "auto" and enough) else None


def _room(k: int) -> int:
    """Candidates held for one query before they are cut back to about k."""
    return 2 * k + 2048


def _even_slices(n: int, parts: int) -> Sequence[slice]:
    """At most `parts` slices of about the same length, none empty, that make up range(n)."""
    parts = min(n, parts)
    edges = [n * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]
