"""Seconds of the engine, stage by stage, beside the bare matrix product and beside others, in the same run."""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import threadpoolctl

from gpuknn.bench.peers import Peer
from gpuknn.engine.cpu.device import CpuDevice, CpuScan
from gpuknn.engine.device import Search
from gpuknn.engine.metric import Metric
from gpuknn.engine.scan import read_ahead
from gpuknn.vectors import Vectors

PRODUCT_ROWS = 1024
"""Rows of one product of the bare multiplication: what BLAS does best with."""
SAMPLE_ROWS = 8 * PRODUCT_ROWS
"""Rows that the bare multiplication goes over again and again."""


READ_ROWS = 2**14
"""Rows read at once to measure the reading."""


@dataclass(frozen=True)
class Machine:
    """What the figures were measured on, and what it does at best."""

    processor: str
    threads: int
    blas: str
    product: float
    """Multiplications and additions a second of a bare float32 product; 0 under hamming."""
    reading: float
    """Bytes a second of reading the rows."""


@dataclass(frozen=True)
class Measurement:
    """One size and k: the least seconds of several runs."""

    rows: int
    k: int
    product: float
    """The bare float32 product of all queries and rows, with all threads; 0 under hamming."""
    engine: float
    stages: dict[str, float]
    """Seconds of the engine's run in each stage, summed over threads and divided by their number."""
    pairs_refined: int
    peers: dict[str, float]


def measure_machine(rows: Vectors, queries: np.ndarray, metric: Metric, threads: int) -> Machine:
    """Rates of this machine on these data."""
    operations = 2.0 * len(rows) * queries.shape[0] * queries.shape[1]
    product = 0.0 if metric is Metric.HAMMING else operations / bare_product(rows, queries, len(rows), threads)
    started = time.perf_counter()
    room = np.empty((2, min(READ_ROWS, len(rows)), rows.shape[1]), rows.dtype)
    runs = [range(a, min(a + READ_ROWS, len(rows))) for a in range(0, len(rows), READ_ROWS)]
    for _ in read_ahead(rows, runs, lambda number: room[number % 2]):
        pass
    reading = rows.nbytes / (time.perf_counter() - started)
    libraries = [f"{lib['internal_api']} {lib.get('architecture', '')}" for lib in threadpoolctl.threadpool_info()]
    return Machine(_processor(), threads, ", ".join(sorted(set(libraries))), product, reading)


def measure(
    rows: Vectors,
    queries: np.ndarray,
    metric: Metric,
    k: int,
    n: int,
    device: CpuDevice,
    repeat: int,
    peers: Sequence[Peer] = (),
) -> Measurement:
    """Time the first n rows: product, engine and peers in turn, `repeat` times; the least of each."""
    products, engines = [], []
    others: dict[str, list[float]] = {peer.name: [] for peer in peers}
    searches: dict[str, Callable[[], object]] = {
        peer.name: peer.prepare(rows[:n], queries, metric, k) for peer in peers
    }
    for _ in range(repeat):
        products.append(0.0 if metric is Metric.HAMMING else bare_product(rows, queries, n, device.threads))
        engines.append(_engine(rows, queries, metric, k, n, device))
        for name, search in searches.items():
            others[name].append(_seconds(search))
    seconds, stages, pairs = min(engines, key=lambda run: run[0])
    least = {name: min(times) for name, times in others.items()}
    return Measurement(n, k, min(products), seconds, stages, pairs, least)


def bare_product(rows: Vectors, queries: np.ndarray, n: int, threads: int) -> float:
    """Seconds of float32 products of all queries with n rows, which are converted already, and nothing else."""
    wide = rows[: min(n, SAMPLE_ROWS)].astype(np.float32)
    asked = queries.astype(np.float32)
    out = np.empty((len(asked), PRODUCT_ROWS), np.float32)

    def multiply() -> None:
        done = 0
        while done < n:
            start = done % len(wide)
            tile = wide[start : start + min(PRODUCT_ROWS, n - done, len(wide) - start)]
            np.matmul(asked, tile.T, out=out[:, : len(tile)])
            done += len(tile)

    with threadpoolctl.threadpool_limits(threads, user_api="blas"):
        return _seconds(multiply)


def _engine(
    rows: Vectors, queries: np.ndarray, metric: Metric, k: int, n: int, device: CpuDevice
) -> tuple[float, dict[str, float], int]:
    """Seconds in all and by stage, and the pairs refined, of one search from the file to the answer."""
    started = time.perf_counter()
    with device.begin(Search(queries, k, metric, np.dtype(np.float32)), rows.dtype) as state:
        for first, epoch in read_ahead(rows, state.epochs(range(n)), state.buffer, device.readers):
            state.feed(epoch, first)
        certificate = state.result()[1]
    seconds = time.perf_counter() - started
    assert isinstance(state, CpuScan)
    stages = {name: spent / device.threads for name, spent in state.seconds.items()}
    stages["reading and waiting"] = max(0.0, seconds - sum(stages.values()))
    return seconds, stages, certificate.pairs_refined


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _processor() -> str:
    """The processor's name, where the system tells."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
