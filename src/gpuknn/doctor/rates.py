"""How fast a GPU is: stage by stage, and a search of rows that lie on it already beside the bare product."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cupy as cp
import cupyx
import numpy as np

from gpuknn.doctor.gpus import HOST_BUILD
from gpuknn.doctor.selftest import Check, distances
from gpuknn.engine.cuda.device import EPOCH_BYTES, CudaDevice, CudaScan, _product
from gpuknn.engine.cuda.kernels import THREADS
from gpuknn.engine.device import Search
from gpuknn.engine.metric import Metric
from gpuknn.engine.neighbors import Neighbors

QUERIES, COMPONENTS = 10_000, 768
KS = (10, 100, 1000)
SECONDS = 20.0
"""That the resident runs may take together."""
RESERVE = 3 * 2**30
"""Device memory beside the rows: what a search for 10,000 queries, k = 1000, works in, and the libraries' own."""
ROWS_OF_PRODUCTS = (1024, 4096, 16384)

# Four 16-bit numbers of a hash of the position (splitmix64), added up: nearly normal, and no library to generate them.
_random_rows = cp.ElementwiseKernel(
    "",
    "float16 out",
    """
    unsigned long long z = (unsigned long long)(i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    int sum = (int)(z & 65535) + (int)(z >> 16 & 65535) + (int)(z >> 32 & 65535) + (int)(z >> 48);
    out = float16((float)(sum - 131070) * (1.0f / 32768));
    """,
    "random_rows",
)


@dataclass(frozen=True)
class Rate:
    """One figure."""

    name: str
    value: float
    unit: str
    said: str


@dataclass(frozen=True)
class Resident:
    """A search of rows that lay on the GPU already, from the queries on the host to the answer on the host."""

    rows: int
    queries: int
    components: int
    k: int
    seconds: float
    operations: float
    """Multiplications and additions a second, of the filter's product."""
    share: float
    """Of the bare product's rate in this run."""
    pairs_refined: int
    bound_used: float
    """The largest error of a score of a refined pair, as a share of what is proven."""


def product_probe(gpu: CudaDevice) -> float:
    """Operations a second of a product large enough to be timed: the order of magnitude, to choose sizes by."""
    with cp.cuda.Device(gpu.number):
        size, seconds = 128, 0.0
        while seconds < 0.005 and size < 8192:
            size *= 2
            q, out = _make_rows(size), cp.empty(size * size, np.float32)
            _product(q, q, out)
            cp.cuda.Device().synchronize()
            started = time.perf_counter()
            _product(q, q, out)
            cp.cuda.Device().synchronize()
            seconds = time.perf_counter() - started
    return 2.0 * size * size * COMPONENTS / seconds


def measure_rates(gpu: CudaDevice, probed: float) -> list[Rate]:
    """The rates of all stages, the bare product first."""
    with cp.cuda.Device(gpu.number):
        queries = _shrunk(QUERIES, probed)
        watch = _Stopwatch(gpu)
        tried = [rows for rows in ROWS_OF_PRODUCTS if queries * rows < probed / 5000] or ROWS_OF_PRODUCTS[:1]
        at = {rows: _product_rate(watch, queries, rows) for rows in tried}
        best = max(at, key=lambda rows: at[rows])
        bare = Rate("product", at[best], "FLOP/s", f"gemmEx, float16 to float32, {queries:,} x {best:,} x {COMPONENTS}")
        rates = [bare, *_stages(gpu, watch, queries, probed), _upload(watch, probed)]
        del watch
        cp.get_default_memory_pool().free_all_blocks()
    return rates


def measure_resident(gpu: CudaDevice, product: float) -> tuple[list[Resident], Check]:
    """The largest search that memory and time allow, for each k, beside a product of `product` operations a second.

    A short one tells the speed first.  Every query is a row; that it is found, and at which distances, is checked.
    """
    with cp.cuda.Device(gpu.number) as device:
        queries = _shrunk(QUERIES, product)
        most = int((device.mem_info[0] * 0.95 - RESERVE) / (2 * COMPONENTS))
        if most < max(KS):
            return [], Check("resident rows", False, "too little free memory on the GPU to keep rows there")
        n = min(most, max(2 * max(KS), int(product * SECONDS / 100 / (2 * queries * COMPONENTS))))
        speed = _run(gpu, _make_rows(n), queries, max(KS), product)[0].operations
        n = min(most, max(n, int(speed * SECONDS / len(KS) / (2 * queries * COMPONENTS))))
        rows = _make_rows(n)
        runs = {k: _run(gpu, rows, queries, k, product) for k in KS}
        wrong = _faults(rows, {k: found for k, (_, found) in runs.items()})
        del rows
        cp.get_default_memory_pool().free_all_blocks()
    said = wrong or "each query found itself first; distances are as defined; the nearest 10 begin the nearest 1000"
    return [run for run, _ in runs.values()], Check("resident rows", not wrong, said)


def _shrunk(queries: int, rate: float) -> int:
    """Fewer queries for a device that is slower than GPUs are."""
    return max(32, min(queries, int(rate / 5e8)))


def _make_rows(n: int) -> cp.ndarray:
    cp.get_default_memory_pool().free_all_blocks()
    rows = cp.empty((n, COMPONENTS), np.float16)
    _random_rows(rows)
    cp.cuda.Device().synchronize()  # a search's streams do not wait for this one
    return rows


def _chosen(n: int, queries: int) -> np.ndarray:
    """The rows that are queries."""
    return np.arange(queries) * n // queries


def _run(gpu: CudaDevice, rows: cp.ndarray, queries: int, k: int, product: float) -> tuple[Resident, Neighbors]:
    asked = rows[cp.asarray(_chosen(len(rows), queries))].get()
    started = time.perf_counter()
    with gpu.begin(Search(asked, k, Metric.COSINE, np.dtype(np.float32)), rows.dtype) as state:
        for run in state.epochs(range(len(rows))):
            state.feed_resident(rows[run.start : run.stop], run.start)
        found, certificate = state.result()
    seconds = time.perf_counter() - started
    operations = 2.0 * len(rows) * queries * COMPONENTS / seconds
    shape = len(rows), queries, COMPONENTS, k
    proof = certificate.pairs_refined, 1 - certificate.smallest_margin
    return Resident(*shape, seconds, operations, operations / product, *proof), found


def _faults(rows: cp.ndarray, found: dict[int, Neighbors]) -> str:
    """What is wrong with the answers, as far as a glance tells; nothing if nothing is."""
    most = found[max(found)]
    itself = _chosen(len(rows), len(most.ids))
    if not np.array_equal(most.ids[:, 0], itself):
        return f"{np.count_nonzero(most.ids[:, 0] != itself)} queries, which are rows, did not find themselves"
    for k, answer in found.items():
        if not (np.array_equal(answer.ids, most.ids[:, :k]) and np.array_equal(answer.dists, most.dists[:, :k])):
            return f"the answer for k = {k} is not the beginning of that for k = {max(found)}"
    for i in (0, len(itself) // 2):
        query = rows[int(itself[i])].get()[None]
        if not np.array_equal(
            distances(rows[cp.asarray(most.ids[i])].get(), query, "cosine")[0].astype("f4"), most.dists[i]
        ):
            return f"distances of query {i} are not those that NumPy computes"
    return ""


def _product_rate(watch: "_Stopwatch", queries: int, rows: int) -> float:
    q, x = (_make_rows(m) for m in (queries, rows))
    out = cp.empty(queries * rows, np.float32)
    return 2.0 * queries * rows * COMPONENTS / watch.least(lambda: _product(q, x, out))


def _upload(watch: "_Stopwatch", probed: float) -> Rate:
    """From pinned memory, as the copy stream does."""
    size = min(EPOCH_BYTES, int(probed / 100))
    host, here = cupyx.empty_pinned(size, np.uint8), cp.empty(size, np.uint8)
    host[:] = 1
    return Rate(
        "upload", size / watch.least(lambda: here.set(host)), "B/s", f"{size / 2**20:,.0f} MiB of pinned memory"
    )


def _stages(gpu: CudaDevice, watch: "_Stopwatch", queries: int, probed: float) -> list[Rate]:
    """What `CudaScan` does with a tile, each by itself; this knows its inside."""
    rows = _make_rows(max(2048, min(2**16, int(probed / (200 * COMPONENTS * queries)))))
    asked = rows[:queries].get()
    with gpu.begin(Search(asked, KS[1], Metric.COSINE, np.dtype(np.float32)), rows.dtype) as state:
        assert isinstance(state, CudaScan)
        rows = rows[: len(state.epochs(range(len(rows)))[0])]
        state.feed_resident(rows, 0)
        state.result()  # thresholds and neighbours are there now, as in the middle of a search
        pool, nq, t = state._pool, len(asked), state._pool.tile
        scores = pool.scores[: nq * t]
        grid = nq, min(-(-t // THREADS), 64)
        of_rows = scores, nq, t, 0, pool.of_rows[0], pool.of_rows[1], pool.threshold, state._itself, 0, pool.room
        held = min(2 * KS[1], pool.room)

        def score() -> None:
            state._score(rows[:t], 0, scores)

        def select() -> None:
            state._kernels.launch("select_passing", grid, *of_rows, pool.held, pool.score, pool.row, pool.lost)

        def empty() -> None:
            pool.held.fill(0)

        def fill() -> None:
            pool.held.fill(held)
            pool.score.fill(1e3)  # all are refined
            pool.row[:] = cp.arange(pool.room, dtype=np.int32) * 7919 % len(rows)

        def settle() -> None:
            state._settle(state._slots[0], rows, 0, pool.of_rows[1], pool.of_rows[2], 0)

        with state._compute:
            product, selecting = watch.least(score), watch.least(select, before=empty)
            launching = _host_seconds((score, select), 20)
            refining = watch.least(settle, before=fill)
        state.close()
    tile = f"{nq:,} queries x {t:,} rows"
    return [
        Rate("product, tile by tile", 2.0 * nq * t * COMPONENTS / product, "FLOP/s", f"{tile}, as the engine does it"),
        Rate("select", nq * t / selecting, "score/s", tile),
        Rate("refine", nq * held / refining, "pair/s", f"{nq:,} queries x {held} candidates, in float64"),
        Rate(
            "launches of a tile", 1 / launching, "tile/s", f"by the host; the GPU does {1 / (product + selecting):,.0f}"
        ),
    ]


def _host_seconds(launches: Sequence[Callable[[], None]], times: int) -> float:
    """Seconds that the host takes to start all of them, without waiting for their end."""
    cp.cuda.get_current_stream().synchronize()
    started = time.perf_counter()
    for _ in range(times):
        for launch in launches:
            launch()
    return (time.perf_counter() - started) / times


class _Stopwatch:
    """Seconds of work on the current stream, between two events; by the clock on the host build, whose tell none.

    Only the GPU's own time counts, not the host's for the launches.
    """

    def __init__(self, gpu: CudaDevice) -> None:
        self._by_clock = gpu.model == HOST_BUILD
        self._load = cp.empty(0 if self._by_clock else 2**30, np.uint8)

    def least(self, work: Callable[[], None], before: Callable[[], None] = lambda: None) -> float:
        """The least of five runs, each after `before`, and after one that is not counted."""
        return min([self._once(work, before) for _ in range(6)][1:])

    def _once(self, work: Callable[[], None], before: Callable[[], None]) -> float:
        before()
        if self._by_clock:
            cp.cuda.Device().synchronize()
            started = time.perf_counter()
            work()
            cp.cuda.Device().synchronize()
            return time.perf_counter() - started
        for _ in range(3):
            self._load.fill(0)  # a millisecond in which the host launches the work: what is timed does not wait for it
        start, stop = cp.cuda.Event(), cp.cuda.Event()
        start.record()
        work()
        stop.record()
        stop.synchronize()
        return float(cp.cuda.get_elapsed_time(start, stop)) / 1000
