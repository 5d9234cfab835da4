"""Seconds of the engine, stage by stage, beside the bare matrix product and beside others, in the same run."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from timeit import timeit

import numpy as np

from gpuknn.bench.kept import keep_rates
from gpuknn.bench.peers import Peer
from gpuknn.bench.processor import bare_product, blas, processor
from gpuknn.bench.rate import Rate
from gpuknn.bench.reading import reading_rate
from gpuknn.engine.device import Device, Search
from gpuknn.engine.metric import Metric
from gpuknn.engine.scan import read_ahead
from gpuknn.vectors import ArrayVectors, Vectors

LONG_ENOUGH = 1.0
"""Seconds of a search that tells a rate worth keeping."""


@dataclass(frozen=True)
class Machine:
    """What the figures were measured on, and what it does at best."""

    device: str
    threads: int
    """Of the device: cores of a processor; 1 for a GPU."""
    processor: str
    blas: str
    product: float
    """Multiplications and additions a second of the device's bare product; 0 under hamming."""
    reading: float
    """Bytes a second of reading the rows."""
    rates: list[Rate]
    """Those of a GPU's stages."""


@dataclass(frozen=True)
class Measurement:
    """One size and k: the least seconds of several runs."""

    rows: int
    k: int
    product: float
    """The bare product of all queries and rows, float32 on a processor and float16 on a GPU; 0 under hamming."""
    engine: float
    stages: dict[str, float]
    """Seconds of the engine's run in each stage, as far as the device tells; a mean over its threads."""
    pairs_refined: int
    peers: dict[str, float]


def random_vectors(device: Device, metric: Metric, n: int | None, nq: int, d: int) -> tuple[Vectors, Vectors]:
    """Rows (n, d) float16, the usual number if n is None, and queries (nq, d) float32; uint64 (d / 64) for hamming."""
    if n is None and device.kind != "cpu":  # a second's product, but no more than are made in seconds
        from gpuknn.bench.gpu import product_probe

        n = max(2000, min(1_000_000, int(product_probe(device) / (2 * nq * d))))
    n = n or 200_000
    rng = np.random.default_rng(0)
    if metric is Metric.HAMMING:
        rows, queries = (rng.integers(0, 2**64, (m, max(1, d // 64)), dtype=np.uint64) for m in (n, nq))
        return ArrayVectors.of(rows, "random rows"), ArrayVectors.of(queries, "random queries")
    halves = np.empty((n, d), np.float16)
    for first in range(0, n, 2**14):
        halves[first : first + 2**14] = rng.standard_normal((min(2**14, n - first), d), np.float32)
    asked = rng.standard_normal((nq, d), np.float32)
    return ArrayVectors.of(halves, "random rows"), ArrayVectors.of(asked, "random queries")


def measure_machine(rows: Vectors, queries: np.ndarray, device: Device) -> Machine:
    """Rates of this machine on these data."""
    some = queries[:1000]
    seconds, rates = _bare_product(rows, some, len(rows), device), []
    if device.kind != "cpu":
        from gpuknn.bench import gpu

        rates = gpu.measure_rates(device, gpu.product_probe(device))
    product = 2.0 * len(rows) * some.size / seconds if seconds else 0.0
    return Machine(device.name, device.units, processor(), blas(), product, reading_rate(rows), rates)


def measure(
    rows: Vectors, searches: Sequence[Search], sizes: Sequence[int], device: Device, repeat: int, peers: Sequence[Peer]
) -> Iterator[Measurement]:
    """Time each search among the first n rows for each n of `sizes`; peers take part at the last size only.

    The engine's rate is kept for predictions if a search takes long enough to tell it.
    """
    most, any_search = sizes[-1], searches[0]
    short = replace(any_search, queries=any_search.queries[:64], k=min(10, most))
    _measure(rows, short, min(most, 20_000), device, 1, ())  # kernels are compiled once
    if device.kind != "cpu":
        from gpuknn.bench import gpu

        peers = [*gpu.resident(device, most * rows.nbytes // len(rows)), *peers]
    found = []
    for n in sizes:
        for search in searches:
            if search.k <= n:
                found.append(_measure(rows, search, n, device, repeat, peers if n == most else ()))
                yield found[-1]
    middle = found[len(found) // 2]
    if any_search.metric is not Metric.HAMMING and middle.engine > LONG_ENOUGH:
        operations = 2.0 * middle.rows * any_search.queries.size
        keep_rates(device.kind, product=operations / middle.engine / device.units)


def _measure(rows: Vectors, search: Search, n: int, device: Device, repeat: int, peers: Sequence[Peer]) -> Measurement:
    """Product, engine and peers in turn, `repeat` times; the least of each."""
    prepared = {peer.name: peer.prepare(rows[:n], search.queries, search.metric, search.k) for peer in peers}
    products, engines, others = [], [], []
    for _ in range(repeat):
        products.append(_bare_product(rows, search.queries, n, device))
        engines.append(_engine(rows, search, n, device))
        others.append([timeit(find, number=1) for find in prepared.values()])
    seconds, stages, pairs = min(engines, key=lambda run: run[0])
    least = dict(zip(prepared, map(min, zip(*others, strict=True)), strict=True))
    return Measurement(n, search.k, min(products), seconds, stages, pairs, least)


def _engine(rows: Vectors, search: Search, n: int, device: Device) -> tuple[float, dict[str, float], int]:
    """Seconds in all and by stage, and the pairs refined, of one search from the file to the answer."""
    started = time.perf_counter()
    with device.begin(search, rows.dtype) as state:
        for first, epoch in read_ahead(rows, state.epochs(range(n)), state.buffer, device.readers):
            state.feed(epoch, first)
        certificate = state.result()[1]
    seconds = time.perf_counter() - started
    stages = {name: spent / device.units for name, spent in state.seconds.items()}
    if stages:
        stages["reading and waiting"] = max(0.0, seconds - sum(stages.values()))
    return seconds, stages, certificate.pairs_refined


def _bare_product(rows: Vectors, queries: np.ndarray, n: int, device: Device) -> float:
    """Seconds of the device's bare product of all queries with n rows; 0 under hamming."""
    if queries.dtype == np.uint64:
        return 0.0
    if device.kind == "cpu":
        return bare_product(rows, queries, n, device.units)
    from gpuknn.bench import gpu

    return gpu.bare_product(device, rows, queries, n)
