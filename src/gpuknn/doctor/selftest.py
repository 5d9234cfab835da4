"""Right answers: the engine beside a plain definition that shares no code with it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from gpuknn.engine.device import Device, Search
from gpuknn.engine.metric import Metric
from gpuknn.engine.scan import scan
from gpuknn.vectors import ArrayVectors

KINDS = ("random", "tied", "near", "adversarial")
"""Random rows; few different ones; ones that differ in one unit of one component; a large component and many that
float32 sums lose beside it."""
QUICK = (
    *(("cosine", "float16"), ("cosine", "float32"), ("ip", "float16"), ("ip", "int8")),
    *(("l2", "float32"), ("l2", "uint8"), ("hamming", "uint64")),
)
ALL = tuple((metric.value, dtype) for metric in Metric for dtype in metric.dtypes)


@dataclass(frozen=True)
class Check:
    """One question that is answered by yes or no."""

    name: str
    passed: bool
    said: str


@dataclass(frozen=True)
class Size:
    """Of the data of one search."""

    rows: int
    queries: int
    components: int
    ks: tuple[int, ...]


def check_answers(devices: Mapping[str, Device], pairs: Sequence[tuple[str, str]], size: Size) -> Iterator[Check]:
    """For each pair of metric and dtype, whether every device, by what to call it, gives the plain answer's bytes."""
    for metric, dtype in pairs:
        wrong = ""
        searches = 0
        for kind in KINDS:
            rows, queries = make_data(kind, dtype, size.rows, size.queries, size.components, seed=searches)
            expected_distances = distances(rows, queries, metric)
            for dists, k, (called, device) in product(("float32", "float64"), size.ks, devices.items()):
                expected = nearest(expected_distances, k, dists)
                fault = compare(device, Search(queries, k, Metric(metric), np.dtype(dists)), rows, expected)
                searches += 1
                if fault and not wrong:
                    wrong = f"{called}, {kind} rows, k = {k}, {dists} distances: {fault}"
        said = f"{searches} searches, every byte as defined ({', '.join(devices)})"
        yield Check(f"{metric} {dtype}", not wrong, wrong or said)


def compare(device: Device, search: Search, rows: np.ndarray, expected: tuple[np.ndarray, np.ndarray]) -> str:
    """What is wrong with a device's answer, beside (ids, dists) (nq, k); nothing if nothing is."""
    try:
        found, _ = scan(ArrayVectors.of(rows, "rows"), range(len(rows)), search, device)
    except Exception as error:  # whatever it is, this machine does not compute what it should
        return f"{type(error).__name__}: {error}"
    ids, dists = expected
    if found.dists.dtype != dists.dtype:
        return f"distances are {found.dists.dtype}"
    wrong = np.argwhere((found.ids != ids) | (found.dists != dists))
    if not len(wrong):
        return ""
    i, j = wrong[0]
    return (
        f"{len(wrong)} of {ids.size} entries are wrong, first query {i}, rank {j}: row {found.ids[i, j]} at "
        f"{found.dists[i, j]:.17g} instead of row {ids[i, j]} at {dists[i, j]:.17g}"
    )


def distances(rows: np.ndarray, queries: np.ndarray, metric: str) -> np.ndarray:
    """(nq, n) float64: the definition of `metric.py`, in NumPy's own sums."""
    if metric == "hamming":
        return np.array([np.bitwise_count(rows ^ q).sum(axis=1) for q in queries], np.float64)
    x, out = rows.astype(np.float64), np.empty((len(queries), len(rows)))
    for q, line in zip(queries.astype(np.float64), out, strict=True):
        if metric == "l2":
            line[:] = ((x - q) ** 2).sum(axis=1)
        elif metric == "ip":
            line[:] = -(x * q).sum(axis=1)
        else:
            line[:] = 1.0 - (x * q).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (q * q).sum())
    return out


def nearest(distances: np.ndarray, k: int, dists: str) -> tuple[np.ndarray, np.ndarray]:
    """(ids, dists) (nq, k) of rows by (stored distance, id), from (nq, n) distances; 0.0 for -0.0."""
    stored = distances.astype(dists) + np.zeros((), dists)
    ids = np.argsort(stored, axis=1, stable=True)[:, :k]
    return ids, np.take_along_axis(stored, ids, axis=1)


def make_data(kind: str, dtype: str, n: int, nq: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, d) of `dtype` and queries (nq, d), every other one a row; of float16 rows float32, as in LAION."""
    rng = np.random.default_rng(seed)
    rows = _rows(kind, np.dtype(dtype), n, d, rng)
    queries = _rows(kind, np.dtype(dtype), nq, d, rng)
    queries[::2] = rows[rng.integers(0, n, len(queries[::2]))]
    return rows, queries.astype(np.float32) if dtype == "float16" else queries


def _rows(kind: str, dtype: np.dtype, n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "random":
        return _random(dtype, n, d, rng)
    if kind == "tied":
        return _random(dtype, max(2, n // 50), d, rng)[rng.integers(0, max(2, n // 50), n)]
    if kind == "near":
        rows = np.repeat(_random(dtype, 1, d, np.random.default_rng(d)), n, axis=0)
        at = np.arange(n), rng.integers(0, d, n)
        if dtype == np.uint64:
            rows[at] ^= np.uint64(1) << rng.integers(0, 64, n, np.uint64)
        elif dtype.kind == "f":
            rows[at] = np.nextafter(rows[at], dtype.type(np.inf))
        else:
            rows[at] += dtype.type(1)
        return rows
    return _adversarial(dtype, n, d, rng)


def _random(dtype: np.dtype, n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    if dtype.kind == "f":
        return rng.standard_normal((n, d), np.float64 if dtype.itemsize == 8 else np.float32).astype(dtype, copy=False)
    if dtype == np.uint64:
        return rng.integers(0, 2**64, (n, d), dtype)
    return rng.integers(-100 if dtype.kind == "i" else 0, 100, (n, d), dtype)


def _adversarial(dtype: np.dtype, n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """One large component in each row and, beside it, many small ones, of one sign in half of the rows."""
    large = np.arange(n), rng.integers(0, d, n)
    if dtype == np.uint64:
        rows = np.zeros((n, d), dtype)
        rows[large] = ~np.uint64(0) >> rng.integers(0, 64, n, np.uint64)
        return rows
    signs = np.ones((n, d)) if dtype.kind == "u" else rng.choice([-1.0, 1.0], (n, d))
    signs[::2] = 1
    if dtype.kind in "ui":
        rows = signs.astype(dtype)
        rows[large] = np.iinfo(dtype).max
        return rows
    # A product of two small components is just below half a unit of float32 beside the product of two large ones.
    rows = signs * (2.0**-12 * (1 - 2.0**-10))
    rows[large] = 1
    scaled: np.ndarray = rows * 2.0 ** rng.integers(-3, 4, (n, 1))
    return scaled.astype(dtype)
