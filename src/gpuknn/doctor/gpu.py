"""What only a GPU can get wrong: sums that lose more than was proven, races, memory that runs out."""

from contextlib import suppress

import cupy as cp
import numpy as np

from gpuknn.bench.gpu import COMPONENTS, chosen_rows
from gpuknn.doctor.selftest import Check, compare, distances, make_data
from gpuknn.engine.bound import Halved
from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.engine.cuda.device import EPOCH_BYTES, CudaDevice
from gpuknn.engine.cuda.product import product
from gpuknn.engine.device import Search
from gpuknn.engine.metric import Metric
from gpuknn.engine.neighbors import Neighbors
from gpuknn.engine.scan import scan
from gpuknn.vectors import ArrayVectors

SLOW = 1e11
"""Operations a second that every GPU exceeds, and no host build of CuPy."""
SUMS = ("random", "large first", "large last", "large anywhere", "sorted", "alternating", "cancelling", "whole numbers")
SUM_LENGTHS = (16, 64, 768, 4096)


def fitting(rate: float, seconds: float, queries: int, rows: int) -> tuple[int, int]:
    """So many queries and rows; fewer of both where a device of that `rate` would take longer than `seconds`."""
    share = min(1.0, rate * seconds / (2.0 * queries * rows * COMPONENTS)) ** 0.5
    return max(4, int(queries * share)), max(1024, int(rows * share))


def check_against_cpu(gpu: CudaDevice, cpu: CpuDevice, rate: float) -> Check:
    """A search of several epochs and many tiles, with near-duplicates, on both."""
    nq, n = fitting(rate, 0.2, 1000, 200_000)
    rows, queries = make_data("random", "float16", n, nq, COMPONENTS, seed=1)
    rows[::3] = np.nextafter(rows[0], np.float16(np.inf))
    rows[1::9] = make_data("near", "float16", len(rows[1::9]), 1, COMPONENTS, seed=2)[0]
    search = Search(queries, 100, Metric.COSINE, np.dtype(np.float32))
    expected = scan(ArrayVectors.of(rows, "rows"), range(n), search, cpu)[0]
    wrong = compare(gpu, search, rows, (expected.ids, expected.dists))
    what = f"{n:,} rows x {COMPONENTS} float16, {nq:,} queries, k = 100"
    return Check("GPU and CPU", not wrong, f"{what}: {wrong or 'the same bytes'}")


def check_sums(gpu: CudaDevice, rate: float) -> tuple[Check, dict[str, float]]:
    """Errors of the float16 product, and the largest of each kind as a share of what is proven (`bound.py`, step 6)."""
    nq, t = (64, 512) if rate < SLOW else (1024, 4096)
    rng = np.random.default_rng(0)
    with cp.cuda.Device(gpu.number):
        shares = {kind: max(_share_of_bound(*_terms(kind, nq, t, d, rng)) for d in SUM_LENGTHS) for kind in SUMS}
    worst = max(shares, key=lambda kind: shares[kind])
    exact = shares["whole numbers"] == 0
    said = f"at most {shares[worst]:.3f} of the proven error, with {worst!r} terms"
    if not exact:
        said += "; sums of small whole numbers, which float32 holds, are not exact"
    return Check("float16 sums", shares[worst] <= 1 and exact, said), shares


def _share_of_bound(queries: np.ndarray, rows: np.ndarray) -> float:
    """The largest error of the product of (nq, d) and (t, d) float16 in units of its bound."""
    out = cp.empty(len(queries) * len(rows), np.float32)
    product(cp.asarray(queries), cp.asarray(rows), out)
    q, x = queries.astype(np.float64), rows.astype(np.float64)
    off = np.abs(out.get().reshape(len(q), len(x)) - q @ x.T)
    norms = np.linalg.norm(q, axis=1), np.linalg.norm(x, axis=1)
    proven = Halved(0.0, False).error(q.shape[1], 1.0, norms[1])  # proportional to the query's norm
    return float((off / (norms[0][:, None] * proven)).max())


def _terms(kind: str, nq: int, t: int, d: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Queries (nq, d) and rows (t, d) float16 whose sums of d terms are of that kind."""
    if kind == "whole numbers":
        queries, rows = (rng.integers(-8, 9, (m, d)).astype(np.float16) for m in (nq, t))
        queries[:, 0] = rows[:, 0] = 8  # no norm is zero
        return queries, rows
    queries, rows = (rng.standard_normal((m, d)) / d**0.5 for m in (nq, t))
    if kind.startswith("large"):
        # Products of the small ones are just below a unit of the large one, half a unit, a quarter, ...: what is
        # truncated, or rounded away, is all of each.
        queries[:], rows[:] = 2.0**-11, 2.0 ** -rng.integers(11, 15, (t, 1)) * (1 - 2.0**-10)
        place = {"large first": np.array([0]), "large last": np.array([d - 1])}.get(kind, np.arange(d))
        for some in (queries, rows):
            some[np.arange(len(some)), np.resize(place, len(some))] = 1
    elif kind == "sorted":
        queries, rows = np.sort(np.abs(queries)), np.sort(np.abs(rows))[:, ::-1]
        queries[::2] = queries[::2, ::-1]
    elif kind == "alternating":
        queries, rows = np.abs(queries), np.abs(rows)
        rows[:, ::2] *= -1
    elif kind == "cancelling":
        queries, rows = (np.repeat(some[:, : d // 2], 2, axis=1) for some in (queries, rows))
        rows[:, 1::2] *= -1
    return queries.astype(np.float16), rows.astype(np.float16)


def check_races(gpu: CudaDevice, rate: float) -> Check:
    """One search over and over: every run must give the same bytes."""
    times = 5 if rate < SLOW else 100
    nq, n = fitting(rate, 0.02, 256, 50_000)
    rows, queries = make_data("near", "float16", n, nq, COMPONENTS, seed=3)
    search = Search(queries, 100, Metric.L2, np.dtype(np.float32))
    answers = (_find(gpu, rows, search)[0] for _ in range(times))
    first, *others = (found.ids.tobytes() + found.dists.tobytes() for found in answers)
    differing = sum(other != first for other in others)
    said = f"{differing} runs differ from the first" if differing else "all bytes equal"
    return Check("races", not differing, f"{n:,} nearly equal rows, {nq} queries, {times} times: {said}")


def check_memory(gpu: CudaDevice, rate: float) -> Check:
    """A search on a GPU whose memory is nearly full: shorter runs of rows, the same answer."""
    size = min(EPOCH_BYTES, int(rate * 0.02 / 8))
    n = size // (2 * COMPONENTS)
    rows, queries = make_data("random", "float16", n, 4, COMPONENTS, seed=4)
    search = Search(queries, 10, Metric.IP, np.dtype(np.float32))
    expected, runs_before = _find(gpu, rows, search)
    with cp.cuda.Device(gpu.number):
        taken = _fill(left=size + size // 2)
        try:
            found, runs = _find(gpu, rows, search)
        finally:
            taken.clear()
            cp.get_default_memory_pool().free_all_blocks()
    same = np.array_equal(found.ids, expected.ids) and np.array_equal(found.dists, expected.dists)
    said = f"{size * 3 / 2**21:.3g} MiB left free: {runs} runs of rows instead of {runs_before}, "
    said += "the same answer" if same else "another answer"
    return Check("memory runs out", same and runs > runs_before, said)


def check_resident(rows: cp.ndarray, found: dict[int, Neighbors]) -> Check:
    """Whether rows (n, d) on the GPU have these neighbours by k, the queries being `chosen_rows`: as a glance tells."""
    most, faults = found[max(found)], []
    itself = chosen_rows(len(rows), len(most.ids))
    if lost := np.count_nonzero(most.ids[:, 0] != itself):
        faults.append(f"{lost} queries, which are rows, did not find themselves")
    for k, answer in found.items():
        if not (np.array_equal(answer.ids, most.ids[:, :k]) and np.array_equal(answer.dists, most.dists[:, :k])):
            faults.append(f"the answer for k = {k} is not the beginning of that for k = {max(found)}")
    for i in (0, len(itself) // 2):
        query, near = (rows[cp.asarray(numbers)].get() for numbers in (itself[i : i + 1], most.ids[i]))
        if not np.array_equal(distances(near, query, "cosine")[0].astype("f4"), most.dists[i]):
            faults.append(f"distances of query {i} are not those that NumPy computes")
    said = "each query found itself first; distances are as defined; the nearest 10 begin the nearest 1000"
    return Check("resident rows", not faults, "; ".join(faults) or said)


def _fill(left: int) -> list[cp.cuda.MemoryPointer]:
    """Take memory of the current device until about `left` bytes are free."""
    cp.get_default_memory_pool().free_all_blocks()
    taken: list[cp.cuda.MemoryPointer] = []
    for piece in (2**bits for bits in range(34, 19, -1)):
        with suppress(cp.cuda.memory.OutOfMemoryError):
            while cp.cuda.Device().mem_info[0] - piece >= left:
                taken.append(cp.cuda.alloc(piece))
    return taken


def _find(gpu: CudaDevice, rows: np.ndarray, search: Search) -> tuple[Neighbors, int]:
    """The neighbours, and in how many runs of rows they were found."""
    runs: list[int] = []
    found, _ = scan(ArrayVectors.of(rows, "rows"), range(len(rows)), search, gpu, runs.append)
    return found, len(runs)
