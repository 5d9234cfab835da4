"""How fast a GPU is: stage by stage, and a search of rows that lie on it already beside the bare product."""

import time
from collections.abc import Callable
from functools import partial

import cupy as cp
import cupyx
import numpy as np

from gpuknn.bench.kept import keep_rates
from gpuknn.bench.peers import Peer
from gpuknn.bench.rate import HOST_BUILD, Rate, Resident
from gpuknn.engine.cuda.device import EPOCH_BYTES, CudaDevice, CudaScan
from gpuknn.engine.cuda.kernels import THREADS
from gpuknn.engine.cuda.product import product
from gpuknn.engine.device import Device, Search
from gpuknn.engine.metric import Metric
from gpuknn.engine.neighbors import Certificate, Neighbors
from gpuknn.errors import RunError
from gpuknn.vectors import Vectors

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


def product_probe(gpu: Device) -> float:
    """Operations a second of a product large enough to be timed: the order of magnitude, to choose sizes by."""
    with _on(gpu):
        size, seconds = 128, 0.0
        while seconds < 0.005 and size < 8192:
            size *= 2
            q, out = _make_rows(size), cp.empty(size * size, np.float32)
            product(q, q, out)
            cp.cuda.Device().synchronize()
            started = time.perf_counter()
            product(q, q, out)
            cp.cuda.Device().synchronize()
            seconds = time.perf_counter() - started
    return 2.0 * size * size * COMPONENTS / seconds


def measure_rates(gpu: Device, probed: float) -> list[Rate]:
    """The rates of all stages, the bare product first; that of uploading is kept for predictions."""
    with _on(gpu):
        queries = _queries(probed)
        watch = _Stopwatch(gpu)
        longest = max((t for t in ROWS_OF_PRODUCTS if queries * t < probed / 5000), default=ROWS_OF_PRODUCTS[0])
        best, rows = _best_product(watch, _make_rows(queries), _make_rows(longest))
        bare = Rate("product", best, "FLOP/s", f"gemmEx, float16 to float32, {queries:,} x {rows:,} x {COMPONENTS}")
        rates = [bare, *_stages(gpu, watch, queries, probed), upload := _upload(watch, probed)]
        keep_rates(gpu.kind, upload=upload.value)
        del watch
        cp.get_default_memory_pool().free_all_blocks()
    return rates


def bare_product(gpu: Device, rows: Vectors, queries: np.ndarray, n: int) -> float:
    """Seconds of float16 products of all queries with n rows, at the rate of the best number of rows at once."""
    with _on(gpu):
        asked, tile = (cp.asarray(some, np.float16) for some in (queries, rows[: min(n, max(ROWS_OF_PRODUCTS))]))
        return float(2.0 * asked.size * n / _best_product(_Stopwatch(gpu), asked, tile)[0])


def measure_resident(gpu: Device, product: float) -> tuple[list[Resident], cp.ndarray, dict[int, Neighbors]]:
    """The largest search that memory and time allow, for each k, beside a product of `product` operations a second.

    A short one tells the speed first.  Keeps the middle k's rate for predictions.  Returns the rows and each
    k's answer, too: the queries are `chosen_rows`.  Raises RunError if there is no memory for the rows.
    """
    with _on(gpu) as device:
        queries = _queries(product)
        most = int((device.mem_info[0] * 0.95 - RESERVE) / (2 * COMPONENTS))
        if most < max(KS):
            raise RunError("too little free memory on the GPU to keep rows there")
        n = min(most, max(2 * max(KS), int(product * SECONDS / 100 / (2 * queries * COMPONENTS))))
        speed = _run(gpu, _make_rows(n), queries, max(KS), product)[0].operations
        n = min(most, max(n, int(speed * SECONDS / len(KS) / (2 * queries * COMPONENTS))))
        rows = _make_rows(n)
        runs = {k: _run(gpu, rows, queries, k, product) for k in KS}
        keep_rates(gpu.kind, product=runs[KS[1]][0].operations)
    return [run for run, _ in runs.values()], rows, {k: found for k, (_, found) in runs.items()}


def chosen_rows(n: int, queries: int) -> np.ndarray:
    """The numbers of the rows that are queries."""
    return np.arange(queries) * n // queries


def resident(gpu: Device, size: int) -> list[Peer]:
    """The engine with its rows on the GPU already, to be timed beside itself; nothing if `size` bytes find no room."""

    def prepare(rows: np.ndarray, queries: np.ndarray, metric: Metric, k: int) -> Callable[[], object]:
        with _on(gpu) as device:
            here = cp.asarray(rows)
            device.synchronize()
        return lambda: _search_resident(gpu, here, Search(queries, k, metric, np.dtype(np.float32)))

    with _on(gpu) as device:
        return [Peer("resident", prepare)] if size < device.mem_info[0] // 2 else []


def _on(gpu: Device) -> cp.cuda.Device:
    """CuPy's name for a device."""
    assert isinstance(gpu, CudaDevice)
    return cp.cuda.Device(gpu.number)


def _queries(rate: float) -> int:
    """How many; fewer for a device that is slower than GPUs are."""
    return max(32, min(QUERIES, int(rate / 5e8)))


def _make_rows(n: int) -> cp.ndarray:
    cp.get_default_memory_pool().free_all_blocks()
    rows = cp.empty((n, COMPONENTS), np.float16)
    _random_rows(rows)
    cp.cuda.Device().synchronize()  # a search's streams do not wait for this one
    return rows


def _run(gpu: Device, rows: cp.ndarray, queries: int, k: int, product: float) -> tuple[Resident, Neighbors]:
    asked = rows[cp.asarray(chosen_rows(len(rows), queries))].get()
    started = time.perf_counter()
    found, certificate = _search_resident(gpu, rows, Search(asked, k, Metric.COSINE, np.dtype(np.float32)))
    seconds = time.perf_counter() - started
    operations = 2.0 * len(rows) * queries * COMPONENTS / seconds
    shape = len(rows), queries, COMPONENTS, k
    proof = certificate.pairs_refined, 1 - certificate.smallest_margin
    return Resident(*shape, seconds, operations, operations / product, *proof), found


def _search_resident(gpu: Device, rows: cp.ndarray, search: Search) -> tuple[Neighbors, Certificate]:
    with gpu.begin(search, rows.dtype) as state:
        for run in state.epochs(range(len(rows))):
            state.feed_resident(rows[run.start : run.stop], run.start)
        return state.result()


def _best_product(watch: "_Stopwatch", queries: cp.ndarray, rows: cp.ndarray) -> tuple[float, int]:
    """Operations a second of products of (nq, d) and at most (t, d) float16, and with how many rows they are most."""
    out = cp.empty(len(queries) * len(rows), np.float32)

    def rate(t: int) -> float:
        return float(2.0 * queries.size * t / watch.least(lambda: product(queries, rows[:t], out)))

    return max((rate(t), t) for t in {min(t, len(rows)) for t in ROWS_OF_PRODUCTS})


def _upload(watch: "_Stopwatch", probed: float) -> Rate:
    """From pinned memory, as the copy stream does."""
    size = min(EPOCH_BYTES, int(probed / 100))
    host, here = cupyx.empty_pinned(size, np.uint8), cp.empty(size, np.uint8)
    host[:] = 1
    seconds = watch.least(lambda: here.set(host))
    return Rate("upload", size / seconds, "B/s", f"{size / 2**20:,.0f} MiB of pinned memory")


def _stages(gpu: Device, watch: "_Stopwatch", queries: int, probed: float) -> list[Rate]:
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

        def fill() -> None:
            pool.held.fill(held)
            pool.score.fill(1e3)  # all are refined
            pool.row[:] = cp.arange(pool.room, dtype=np.int32) * 7919 % len(rows)

        with state._compute:
            product, selecting = watch.least(score), watch.least(select, before=lambda: pool.held.fill(0))
            cp.cuda.get_current_stream().synchronize()
            started = time.perf_counter()
            for launch in (score, select) * 20:
                launch()
            launching = (time.perf_counter() - started) / 20  # the host's time to start both, not that until their end
            settle = partial(state._settle, state._slots[0], rows, 0, pool.of_rows[1], pool.of_rows[2], 0)
            refining = watch.least(settle, before=fill)
        state.close()
    tile, together = f"{nq:,} queries x {t:,} rows", 1 / (product + selecting)
    return [
        Rate("product, tile by tile", 2.0 * nq * t * COMPONENTS / product, "FLOP/s", f"{tile}, as the engine does it"),
        Rate("select", nq * t / selecting, "score/s", tile),
        Rate("refine", nq * held / refining, "pair/s", f"{nq:,} queries x {held} candidates, in float64"),
        Rate("launches of a tile", 1 / launching, "tile/s", f"by the host; the GPU does {together:,.0f}"),
    ]


class _Stopwatch:
    """Seconds of work on the current stream, between two events; by the clock on the host build, whose tell none.

    Only the GPU's own time counts, not the host's for the launches.
    """

    def __init__(self, gpu: Device) -> None:
        self._by_clock = HOST_BUILD in gpu.name
        self._load = cp.empty(0 if self._by_clock else 2**30, np.uint8)

    def least(self, work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
        """The least of five runs, each after `before`, and after one that is not counted."""
        return min([self._once(work, before) for _ in range(6)][1:])

    def _once(self, work: Callable[[], object], before: Callable[[], object]) -> float:
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
