"""The GPU device: CuPy for memory, streams and products on tensor cores, our own kernels for everything else.

Queries and rows meet in float16, with float32 sums (cuBLAS gemmEx: CuPy's own product would round the sums to float16).
Scores of a tile stay in the GPU's second cache until `select_passing` has read them.  Nothing waits for the host
between tiles: `select_passing` appends, and after a few tiles `settle` looks for queries that hold many candidates and
cuts or refines those.  There is always room: `settle` leaves at most `level` candidates, and no more rows than
`room - level` are scored before the next.  State, order of sums and results are those of the CPU device, bit for bit.

An epoch passes through three places at once, in slots that are used in turn:

    reader thread   waits until the slot's last upload has been made; reads rows into the slot's pinned memory
    copy stream     waits until the slot's last epoch has been searched; uploads the rows, computes their norms
    compute stream  waits for that; the host, which needs the norms for the bound, waits for it too, and meanwhile the
                    compute stream is still at work on the epoch before

Bytes and operations.  For n rows of d components, nq queries: 2 nq n d operations on tensor cores; 2 n d bytes are
read, uploaded, and read twice on the device (norms, product); 4 nq n bytes of scores are written to and read from the
second cache; some nq k (1 + ln(n / k)) pairs are refined, at 2 d operations in float64 and 2 d bytes each.  For 10,000
queries among 102 million rows of 768 float16, k = 100: 1.6e15 operations, 2 s at 800 TFLOP/s; 157 GB, 6 s over 25 GB/s
of PCIe, 22 s from a disk of 7 GB/s, and with eight GPUs the same 22 s if they share that disk; 4 TB of scores, 1 s at 8
TB/s; 15 million pairs, 23 GFLOP and 23 GB, less than 0.1 s.  So the disk decides, then PCIe, then the product.
`gpuknn doctor --full` measures each of them; `gpuknn exact` says how long it took.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import cupy as cp
import numpy as np
from cupy.cuda import device as cupy_device

from gpuknn.engine.bound import ROUNDING, Filter, Halved, filter_for
from gpuknn.engine.cuda.block import CudaBlock
from gpuknn.engine.cuda.kernels import THREADS, Kernels, Struct, fill
from gpuknn.engine.cuda.product import product
from gpuknn.engine.cuda.resident import GpuVectors
from gpuknn.engine.cuda.room import Room, Slot
from gpuknn.engine.cuda.table import WIDEN
from gpuknn.engine.device import BlockOf, Search
from gpuknn.engine.metric import Metric, summation_leaves
from gpuknn.engine.neighbors import Certificate, Neighbors
from gpuknn.engine.projecting import Block, Check
from gpuknn.errors import InputError, RunError, install_cupy
from gpuknn.vectors import Vectors

if TYPE_CHECKING:
    from gpuknn.engine.cpu.needed import Needed  # which loads Numba

SLOTS = 3
EPOCH_BYTES = 2**27
"""Of the rows of an epoch, as stored: some milliseconds of upload."""
CACHE_SHARE = 0.6
"""How much of the second cache a tile's scores may take."""
SMALLEST_TILE = 64
LARGEST_TILE = 4096
SWEEP_ROWS = 4096
"""Rows scored between two calls of `settle`, or a tile."""
SPARE = 1024
"""Candidates that a query may hold, beyond 2 k, before they are cut."""
MEMORY_SHARE = 0.9
"""Of the free device memory, what a search may plan with."""

# float32(x * factor), then float16: the rounding that bound.py, step 6, speaks of.
_halve = cp.ElementwiseKernel(
    "T x, float64 factor", "float16 out", "out = float16((float)(widen(x) * factor))", "halve", preamble=WIDEN
)


@dataclass(frozen=True)
class CudaDevice:
    """One GPU, by its number among those that this process sees."""

    number: int
    model: str
    free: int
    """Bytes of its memory that were free when it was found."""

    units = 1
    readers = 4

    @property
    def name(self) -> str:
        """What a person calls it."""
        return f"cuda ({self.model})"

    kind = name

    @property
    def resources(self) -> dict[str, int]:
        """One of the GPUs that a worker was started with."""
        return {"GPU": 1}

    def here(self, threads: int, number: int) -> "CudaDevice":
        """The GPU of that number, opened anew."""
        return open_cuda(number % cp.cuda.runtime.getDeviceCount())

    def memory(self, queries: int, k: int, components: int, itemsize: int = 8) -> int:
        """Bytes of pinned memory for rows, whatever their type, and of queries and results as they are on the host."""
        return SLOTS * max(EPOCH_BYTES, 8 * components) + queries * (components * (8 + 8 + 4) + k * (16 + 8))

    def most_queries(self, k: int, components: int) -> int:
        """Queries for which state, candidates and a tile of scores fit the device beside the rows."""
        rows = (SLOTS + 1) * max(EPOCH_BYTES, 8 * components)
        room = 2 * k + SPARE + SWEEP_ROWS
        each = components * (8 + 2) + 16 * room + 2 * 16 * k + 4 * SMALLEST_TILE
        return max(1, int((MEMORY_SHARE * self.free - rows) / each))

    def kernels(self, metric: Metric, rows: Vectors, queries: Vectors, k: int) -> "list[Needed]":
        """Those of the check."""
        from gpuknn.engine.cpu.needed import for_check  # here: it loads Numba

        return for_check(metric, rows.dtype, queries.dtype)

    def resident(self, rows: Vectors) -> Any:
        """The array of CuPy's, if it lies on this GPU in one piece."""
        if isinstance(rows, GpuVectors) and rows.gpu == self.number and rows.array.flags.c_contiguous:
            return rows.array
        return None

    @contextmanager
    def blocks(self) -> Iterator[BlockOf]:
        """What makes blocks of rows; models stay on the device meanwhile."""
        yield partial(self._block, lru_cache(_upload))

    @contextmanager
    def _block(self, uploaded: Callable[..., Any], rows: np.ndarray, check: Check) -> Iterator[Block]:
        """Rows (m, d) on the device, and a stream of the thread's own."""
        with cp.cuda.Device(self.number), cp.cuda.Stream(non_blocking=True) as stream:
            try:
                yield CudaBlock(cp.asarray(rows), check, _kernels(self.number), uploaded)
            except cp.cuda.memory.OutOfMemoryError as error:
                raise RunError(f"GPU {self.number}: too little free memory for a block of rows; free some") from error
            finally:
                stream.synchronize()

    @contextmanager
    def begin(self, search: Search, components_as: np.dtype) -> Iterator["CudaScan"]:
        """Start a search; all it holds on the device is given back at the end."""
        with cp.cuda.Device(self.number):
            scan = CudaScan(search, components_as, self.number)
            try:
                yield scan
            finally:
                scan.close()


def open_cuda(number: int = 0) -> CudaDevice:
    """A GPU of this process; raises InputError where there is none or CUDA's libraries do not work."""
    try:
        if not cp.cuda.is_available():
            raise InputError("device cuda: no NVIDIA GPU or driver was found; device cpu computes on the processor")
        with cp.cuda.Device(number) as device:
            cupy_device.get_cublas_handle()
            _halve(cp.ones(1, np.float32), 1.0)
            free = device.mem_info[0]
        model = cp.cuda.runtime.getDeviceProperties(number)["name"].decode()
    except InputError:
        raise
    except Exception as error:  # missing or mismatched libraries show in many ways
        raise InputError(
            f"device cuda: CuPy cannot use this GPU ({type(error).__name__}: {error}); install the one that "
            f"fits the driver, {install_cupy()}"
        ) from error
    return CudaDevice(number, model, free)


def _upload(model: object, name: str) -> Any:
    """An array of a model on the current device, for all threads."""
    array = cp.asarray(getattr(model, name))
    cp.cuda.get_current_stream().synchronize()
    return array


@lru_cache
def _kernels(number: int) -> Kernels:
    """The kernels for blocks on one of this process's GPUs."""
    return Kernels()


def open_all() -> list[CudaDevice]:
    """The GPUs of this process, at least one; raises InputError as `open_cuda` does."""
    first = open_cuda(0)
    return [first, *(open_cuda(number) for number in range(1, cp.cuda.runtime.getDeviceCount()))]


class CudaScan:
    """The exact answer for the rows fed so far, on the device."""

    def __init__(self, search: Search, row_type: np.dtype, number: int) -> None:
        nq, d = search.queries.shape
        self._search, self._number, self._row_type = search, number, np.dtype(row_type)
        self._hamming = search.metric is Metric.HAMMING
        self._kernels = Kernels()
        self._compute, self._copy = (cp.cuda.Stream(non_blocking=True) for _ in range(2))
        self._leaves = summation_leaves(d)
        self._half_factor: np.ndarray | None = None
        self._halved = Halved(0.0, False)
        self._bound = 0.0
        self._fed = 0
        self._waiting: tuple[Slot, Any, int] | None = None
        self._runs: list[range] = []
        self._slots: list[Slot] = []
        self._pool: Any = None
        self._row_factor: Any = None
        self._state: tuple[Struct, ...] = ()
        with self._compute:
            self._device_leaves = cp.asarray(self._leaves)
            self._rule = fill(
                "Rule",
                {
                    "leaves": self._device_leaves,
                    "leaf_count": len(self._leaves),
                    "metric": list(Metric).index(search.metric),
                    "single": search.dists == np.float32,
                    "rounding": ROUNDING,
                },
            )
            itself = np.full(nq, -1) if search.first_id is None else search.first_id + np.arange(nq)
            self._itself = cp.asarray(itself)
            self._floor = cp.asarray(np.full(nq, np.inf) if search.floor is None else search.floor)
            self._query_norms = cp.zeros(nq)
            self._low_queries = cp.empty((0 if self._hamming else nq, d), np.float16)
            if self._hamming:
                self._queries = cp.asarray(search.queries)
            else:
                self._queries = cp.asarray(np.ascontiguousarray(search.queries, np.float64))
                self._squared_norms(self._queries, self._query_norms)
            self._host_query_norms = self._query_norms.get()

    def epochs(self, extent: range) -> list[range]:
        """The runs of rows that `feed` takes, as long as memory allows; allocates what the search needs.

        Raises RunError where the device has too little memory for the shortest.
        """
        d = self._search.queries.shape[1]
        length = max(1, min(EPOCH_BYTES // (d * self._row_type.itemsize), len(extent)))
        while not self._allocate(length):
            if length == 1:
                raise RunError(
                    f"GPU {self._number}: too little free memory for {len(self._search.queries)} queries and k = "
                    f"{self._search.k}; free some, or set a lower limit of memory so that "
                    "queries are taken in smaller blocks"
                )
            length = -(-length // 4)
        self._runs = [range(a, min(a + length, extent.stop)) for a in range(extent.start, extent.stop, length)]
        return self._runs

    def buffer(self, number: int) -> np.ndarray:
        """The slot's pinned memory, once its last upload has been made."""
        slot = self._slots[number % SLOTS]
        with cp.cuda.Device(self._number):
            slot.loaded.synchronize()
        rows: np.ndarray = slot.host
        return rows

    def feed(self, rows: np.ndarray, first: int) -> None:
        """Upload rows (m, d), which lie in a slot's pinned memory, and search those fed before meanwhile."""
        slot = self._free_slot()
        here = slot.rows[: len(rows)]
        here.set(rows, stream=self._copy)
        self._take_in(slot, here, first)

    def feed_resident(self, rows: Any, first: int) -> None:
        """The same for rows (m, d) that are on this device already, whichever stream wrote them."""
        self._take_in(self._free_slot(), rows, first)

    def result(self) -> tuple[Neighbors, Certificate]:
        """The neighbours among all rows fed, and what proves them."""
        self._search_waiting()
        self._waiting = None
        pool = self._pool
        with self._compute:
            dists, ids = pool.dists.get(), pool.ids.get()
            (pairs, used), lost = pool.sums.get(), int(pool.lost.get()[0])
        if lost:
            raise RunError(f"{lost} candidates found no room on the GPU: a mistake in gpuknn, please report it")
        margin = 1.0 - float(used.view(np.float64))
        if not margin >= 0:
            raise RunError(
                f"a filter score was off by more than its proven error (margin {margin:.3g}): "
                "this GPU's matrix product is not what it should be; please report it"
            )
        method = "integer scores, exact" if self._hamming else "float16 scores, float64 refinement"
        certificate = Certificate(method, self._bound, int(pairs), margin)
        return Neighbors(ids, dists.astype(self._search.dists)), certificate

    @property
    def seconds(self) -> dict[str, float]:
        """Nothing: what a stage takes on the GPU is known only to those who wait for its end."""
        return {}

    def close(self) -> None:
        """Wait for all work, whose memory may then be used again."""
        self._copy.synchronize()
        self._compute.synchronize()

    def _allocate(self, length: int) -> bool:
        """Make room for epochs of so many rows; False where there is too little."""
        (nq, d), k = self._search.queries.shape, self._search.k
        cache = cp.cuda.Device(self._number).attributes["L2CacheSize"]
        tile = int(CACHE_SHARE * cache / (4 * nq)) // SMALLEST_TILE * SMALLEST_TILE
        tile = min(max(tile, SMALLEST_TILE), LARGEST_TILE, length)
        sweep = max(SWEEP_ROWS // tile * tile, tile)
        low = not self._hamming and self._row_type != np.float16
        try:
            with self._compute:
                self._slots = [Slot(length, d, self._row_type, nq) for _ in range(SLOTS)]
                self._pool = Room(length, tile, sweep, 2 * k + SPARE, nq, k, d, low)
        except cp.cuda.memory.OutOfMemoryError:
            self._slots, self._pool = [], None
            self._compute.synchronize()
            cp.get_default_memory_pool().free_all_blocks()
            return False
        of_queries = {"queries": None if self._hamming else self._queries, "norms": self._query_norms, "nq": nq, "k": k}
        self._state = fill("Kept", vars(self._pool) | of_queries), fill("Found", vars(self._pool)), self._rule
        self._copy.wait_event(self._compute.record())  # the slots' memory was the compute stream's until here
        return True

    def _squared_norms(self, rows: Any, out: Any) -> None:
        grid = (min(-(-len(rows) * 8 // THREADS), 2**16),)
        leaves = self._device_leaves, len(self._leaves)
        self._kernels.launch(f"squared_norms_{rows.dtype.name}", grid, rows, *rows.shape, *leaves, out)

    def _free_slot(self) -> Slot:
        """The next slot; the copy stream waits until the epoch that it was used for has been searched."""
        slot = self._slots[self._fed % SLOTS]
        self._fed += 1
        self._copy.wait_event(slot.used)
        return slot

    def _take_in(self, slot: Slot, rows: Any, first: int) -> None:
        """Compute the norms of rows on the device, after their upload, and meanwhile search those fed before."""
        m = len(rows)
        if not self._hamming:
            with self._copy:
                self._squared_norms(rows, slot.norms)
            slot.norms[:m].get(stream=self._copy, out=slot.host_norms[:m], blocking=False)
        slot.loaded.record(self._copy)
        self._search_waiting()
        self._waiting = slot, rows, first

    def _search_waiting(self) -> None:
        """Search the epoch that was fed before, on the compute stream."""
        if self._waiting is None:
            return
        slot, rows, first = self._waiting
        slot.loaded.synchronize()  # the host needs the norms
        self._compute.wait_event(slot.loaded)
        with self._compute:
            self._set_bound(slot, len(rows))
            self._search_epoch(slot, rows, first)
        slot.used.record(self._compute)

    def _set_bound(self, slot: Slot, m: int) -> None:
        """Compute the bound of an epoch and upload it, by way of the slot's pinned memory.

        What was uploaded from there the last time has arrived: the slot was not loaded before it was used.
        """
        filter_ = self._filter(slot.host_norms[:m])
        self._bound = max(self._bound, float(filter_.error.max()))
        exact_in_half = self._hamming or self._row_type.name in ("float16", "uint8", "int8")
        scale = filter_.row_factor if exact_in_half else 1.0
        for i, values in enumerate((scale, filter_.bias, filter_.error)):
            slot.of_rows[i, :m] = values
            self._pool.of_rows[i, :m].set(slot.of_rows[i, :m], stream=self._compute)
        slot.to_score[:], slot.slack[:] = filter_.to_score, filter_.slack
        self._pool.to_score.set(slot.to_score, stream=self._compute)
        self._pool.slack.set(slot.slack, stream=self._compute)
        self._row_factor = None if exact_in_half else cp.asarray(filter_.row_factor)

    def _filter(self, norms: np.ndarray) -> Filter:
        """The bound for rows of these squared norms; rounds the queries to float16 where their scale has changed."""
        metric, (_, d) = self._search.metric, self._search.queries.shape
        if self._hamming:
            return filter_for(metric, d, self._host_query_norms, np.zeros(len(norms)))
        if self._half_factor is None or metric is Metric.L2:  # only there the rows decide the queries' scale, too
            factor = filter_for(metric, d, self._host_query_norms, norms).query_factor
            if self._half_factor is None or not np.array_equal(self._half_factor, factor):
                self._round_queries(factor)
        return filter_for(metric, d, self._host_query_norms, norms, self._halved.error)

    def _round_queries(self, factor: np.ndarray) -> None:
        """Round the queries, scaled by `factor` (nq,), to float16."""
        scaled = self._search.queries.astype(np.float64) * factor[:, None]
        low = scaled.astype(np.float16)
        residual = np.sqrt(((scaled - low) ** 2).sum(axis=1).max()) * (1 + 2.0**-40)
        self._low_queries.set(low, stream=self._compute)
        self._halved = Halved(float(residual), self._row_type.kind == "f" and self._row_type.itemsize > 2)
        self._half_factor = factor

    def _search_epoch(self, slot: Slot, rows: Any, first: int) -> None:
        """Score, select and settle all rows (m, d) of an epoch, on the device."""
        pool, (nq, _), k, m = self._pool, self._search.queries.shape, self._search.k, len(rows)
        state = pool.dists, pool.filled, self._floor, pool.to_score
        self._kernels.launch("begin_epoch", (-(-nq // THREADS),), *state, nq, k, ROUNDING, pool.threshold, pool.held)
        scale, bias, error = pool.of_rows
        for start, stop in pairwise([*range(0, m, pool.tile), m]):
            t = stop - start
            scores = pool.scores[: nq * t]
            self._score(rows[start:stop], start, scores)
            self._kernels.launch(
                "select_passing",
                (nq, min(-(-t // THREADS), 64)),
                *(scores, nq, t, start, scale, bias, pool.threshold, self._itself, first, pool.room),
                *(pool.held, pool.score, pool.row, pool.lost),
            )
            if stop == m or stop % pool.sweep == 0:
                self._settle(slot, rows, first, bias, error, 0 if stop == m else pool.level)

    def _score(self, rows: Any, start: int, out: Any) -> None:
        """Scores (nq, t) of rows (t, d), each still to be multiplied by its row's factor."""
        (nq, d), t = self._search.queries.shape, len(rows)
        if self._hamming:
            grid = (min(-(-nq // 32), 2**16), min(-(-t // 32), 2**15))
            self._kernels.launch("hamming_scores", grid, self._queries, rows, nq, t, d, out)
            return
        if self._row_factor is not None:
            rows = _halve(rows, self._row_factor[start : start + t, None], self._pool.low[:t])
        elif rows.dtype != np.float16:
            low = self._pool.low[:t]
            low[...] = rows
            rows = low
        product(self._low_queries, rows, out)

    def _settle(self, slot: Slot, rows: Any, first: int, bias: Any, error: Any, most: int) -> None:
        of_rows = {"norms": slot.norms, "bias": bias, "error": error, "d": rows.shape[1], "first": first}
        grid = (min(len(self._queries), 2**16),)
        arguments = rows, fill("Epoch", of_rows), *self._state, most
        self._kernels.launch(f"settle_{self._row_type.name}", grid, *arguments)
