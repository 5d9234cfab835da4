"""The one loop: read rows, filter, refine, keep.  The state after each step is the exact answer for the rows so far."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gpuknn.errors import InputError
from gpuknn.exact.check import check_content, check_question
from gpuknn.exact.device import Certificate, Device, Search, open_device, usable_cores
from gpuknn.exact.metric import Metric
from gpuknn.exact.neighbors import Neighbors
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
    with device.begin(search) as state:
        for first, epoch in read_ahead(rows, extent, device.epoch_rows(rows.shape[1])):
            state.feed(epoch, first)
            if progress is not None:
                progress(first + len(epoch) - extent.start)
        return state.result()


def read_ahead(rows: Vectors, extent: range, length: int) -> Iterator[tuple[int, np.ndarray]]:
    """Runs of `length` rows with the number of their first, the next one being read while the present one is used.

    A run is overwritten two steps later.
    """
    if extent.step != 1 or not 0 <= extent.start <= extent.stop <= len(rows):
        raise InputError(f"{rows.where}: {extent} is not a range of its {len(rows)} rows")
    starts = range(extent.start, extent.stop, length)
    shape = (min(length, len(extent)), rows.shape[1])
    buffers = [np.empty(shape, rows.dtype) for _ in starts[:2]]

    def read(i: int) -> np.ndarray:
        run = buffers[i % 2][: min(length, extent.stop - starts[i])]
        rows.read(starts[i], run)
        return run

    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, 0) if starts else None
        for i, first in enumerate(starts):
            assert coming is not None
            run = coming.result()
            coming = reader.submit(read, i + 1) if i + 1 < len(starts) else None
            yield first, run
