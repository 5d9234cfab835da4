"""The one loop: read rows, filter, refine, keep.  The state after each step is the exact answer for the rows so far."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from gpuknn.engine.check import check_content, check_question
from gpuknn.engine.choose import open_device, usable_cores
from gpuknn.engine.device import Certificate, Device, Search
from gpuknn.engine.metric import Metric
from gpuknn.engine.neighbors import Neighbors
from gpuknn.vectors import ArrayVectors, Vectors


def exact_knn(
    database: Vectors | np.ndarray,
    queries: Vectors | np.ndarray | None,
    k: int,
    metric: str = "cosine",
    device: str = "auto",
    dists: str = "float32",
    threads: int | None = None,
) -> Neighbors:
    """The exact k nearest rows of every query, in this process.

    Parameters
    ----------
    database, queries
        Rows (n, d) and (nq, d): `Vectors` or arrays of float16, float32, float64, uint8 or int8; of uint64 for
        hamming.  They need not have the same dtype.  Queries of None are the rows themselves, each of which is left
        out of its own answer.
    k
        Neighbours for each query, 1 to n (n - 1 where the queries are the rows).
    metric
        cosine, ip (largest inner product), l2 (squared Euclidean distance) or hamming; `metric.py` defines them.
    device
        auto, cpu or cuda.
    dists
        float32 or float64: how distances are stored and therefore what a tie is; ties go to the lowest id.
    threads
        Cores to use; all that this process may use by default.

    Returns
    -------
    Neighbors
        ids (nq, k) int64, row numbers from 0, nearest first; dists (nq, k) of `dists`.  The same bits on any device.

    Raises
    ------
    InputError
        Shapes, types or k do not fit, or rows hold NaN, infinity or, under cosine, only zeros.
    """
    rows = database if isinstance(database, Vectors) else ArrayVectors.of(database, "database")
    if queries is None:
        asked = rows
    else:
        asked = queries if isinstance(queries, Vectors) else ArrayVectors.of(queries, "queries")
    check_question(rows, asked, k, metric, dists, itself=queries is None)
    chosen = open_device(device, threads)
    check_content(rows, asked, Metric(metric), dists, threads or usable_cores())
    search = Search(asked[:], k, Metric(metric), np.dtype(dists), first_id=0 if queries is None else None)
    return scan(rows, range(len(rows)), search, chosen)[0]


def scan(
    rows: Vectors, extent: range, search: Search, device: Device, progress: Callable[[int], None] | None = None
) -> tuple[Neighbors, Certificate]:
    """The neighbours among the rows of `extent`, whose rows have been checked; ids are row numbers in `rows`.

    `progress` is told the number of rows done after each epoch.
    """
    with device.begin(search, rows.dtype) as state:
        for first, epoch in read_ahead(rows, state.epochs(extent), state.buffer, device.readers):
            state.feed(epoch, first)
            if progress is not None:
                progress(first + len(epoch) - extent.start)
        return state.result()


def read_ahead(
    rows: Vectors, runs: Sequence[range], buffer: Callable[[int], np.ndarray], threads: int = 1
) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of each run with the number of their first, the next run being read while the present one is used."""

    def read(run: range, out: np.ndarray) -> None:
        rows.read(run.start, out)

    def read_run(number: int, pool: ThreadPoolExecutor) -> np.ndarray:
        run = runs[number]
        out = buffer(number)[: len(run)]
        edges = [len(run) * i // threads for i in range(threads + 1)]
        list(pool.map(read, (run[a:b] for a, b in pairwise(edges)), (out[a:b] for a, b in pairwise(edges))))
        return out

    with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(threads) as pool:
        coming = [ahead.submit(read_run, number, pool) for number in range(len(runs[:1]))]
        for number, run in enumerate(runs):
            here = coming.pop().result()
            if number + 1 < len(runs):
                coming.append(ahead.submit(read_run, number + 1, pool))
            yield run.start, here
