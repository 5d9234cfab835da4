"""The one loop: read rows, filter, refine, keep.  The state after each step is the exact answer for the rows so far."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import pairwise

import numpy as np

from gpuknn.engine.check import check_content, check_question
from gpuknn.engine.choose import open_device, usable_cores
from gpuknn.engine.device import Device, Scan, Search
from gpuknn.engine.metric import Metric, metric_named
from gpuknn.engine.neighbors import Certificate, Neighbors
from gpuknn.engine.rows import open_rows, under
from gpuknn.engine.self_join import put_self_first
from gpuknn.progress import Event, Listener, listening, step
from gpuknn.vectors import Rows, Vectors
from gpuknn.vectors.ids import own_ids
from gpuknn.vectors.written import Missing


def exact_knn(
    database: Rows,
    queries: Rows | None = None,
    *,
    k: int,
    metric: str = "cosine",
    device: str = "auto",
    dists: str = "float32",
    threads: int | None = None,
    missing: Missing = "refuse",
    self_first: bool = False,
    ignore_ids: bool = False,
    progress: bool | Listener = False,
) -> Neighbors:
    """The exact k nearest rows of every query, in this process.

    Parameters
    ----------
    database, queries
        Rows (n, d) and (nq, d) of float16, float32, float64, uint8 or int8: arrays of NumPy, h5py, Zarr, Dask, Arrow or
        whatever speaks DLPack (PyTorch, CuPy, JAX), lists, paths, `FILE:KEY`, URLs or `Vectors`.  They need not have
        the same dtype.  Under hamming they are sketches: booleans, uint8 or int8 with eight bits in a byte, or words of
        uint64.  A single query may have the shape (d,).  Without queries, the rows are the queries, and each is left
        out of its own answer.  Rows on a GPU are searched there, after a check of all of them for which they are copied
        to the machine's memory, a part at a time.
    k
        Neighbours for each query, 1 to n (n - 1 if the queries are the rows and left out of their answers).
    metric
        cosine (1 - cos), ip (inner product, of which dists are the negative; also dot, inner_product), l2 (the square
        of the Euclidean distance; also sqeuclidean) or hamming (number of differing bits); in capitals or not.
    device
        auto, cpu or cuda.
    dists
        float32 or float64: how distances are stored and therefore what a tie is; ties go to the lowest id.
    threads
        Cores to use; all that this process may use by default.
    missing
        What becomes of rows that nobody wrote (`open_vectors`): refuse, or zeros.
    self_first
        Without queries: each row stands first in its own answer, as one of its k neighbours, even if others are equal
        to it.
    ignore_ids
        Leave out the ids that a file gives its rows; the answer then holds row numbers alone.
    progress
        True for a bar in a terminal or a notebook, or a function that is told of the rows done, as mappings.

    Returns
    -------
    Neighbors
        `ids, dists = exact_knn(...)`: ids (nq, k) int64, row numbers from 0, nearest first; dists (nq, k) of `dists`;
        arrays of NumPy, the same bits on any device.  `certificate` says what proves them.

    Raises
    ------
    InputError
        Shapes, types or k do not fit, or rows hold NaN, infinity or, under cosine, only zeros.

    Examples
    --------
    >>> import numpy as np, gpuknn
    >>> rows = np.array([[0, 0], [3, 4], [6, 8]], np.float32)
    >>> ids, dists = gpuknn.exact_knn(rows, [[3, 3]], k=2, metric="l2")
    >>> ids, dists
    (array([[1, 0]]), array([[ 1., 18.]], dtype=float32))
    >>> gpuknn.exact_knn(rows, k=1, metric="l2").ids  # each row's nearest other
    array([[1],
           [0],
           [1]])
    >>> gpuknn.exact_knn(rows, k=2, metric="l2", self_first=True).ids
    array([[0, 1],
           [1, 0],
           [2, 1]])
    """
    kind = metric_named(metric)
    rows = under(kind, open_rows(database, "database", missing))
    asked = rows if queries is None else under(kind, open_rows(queries, "queries", missing, single=True))
    ids, query_ids = (None, None) if ignore_ids else (own_ids(rows.ids), own_ids(asked.ids))
    check_question(rows, asked, k, kind, dists, queries is None, self_first)
    chosen = open_device(device, threads, rows.gpu or 0)
    with listening(progress) as told:
        _compile(rows, asked, kind, k - self_first, chosen, told)
        n, row_bytes = len(rows), rows.nbytes // len(rows)
        told(step("checking", n, "checked", row_bytes=row_bytes))
        told(step("computing", n, "progress", row_bytes=row_bytes))

        def heard(name: str) -> Callable[[int], None]:
            return lambda done: told({"event": name, "rows": done})

        check_content(rows, asked, kind, dists, threads or usable_cores(), heard("checked"))
        first_id = 0 if queries is None else None
        search = Search(asked[:], k - self_first, kind, np.dtype(dists), first_id=first_id)
        found, certificate = scan(rows, range(n), search, chosen, heard("progress"))
    if self_first:
        found = put_self_first(found, search.queries, 0, kind)
    return Neighbors(
        found.ids,
        found.dists,
        kind.value,
        None if ids is None else ids.of(found.ids),
        None if query_ids is None else query_ids.all(),
        asked.bits or 64 * asked.shape[1] if kind is Metric.HAMMING else None,
        certificate,
    )


def _compile(
    rows: Vectors, queries: Vectors, metric: Metric, k: int, device: Device, told: Callable[[Event], None]
) -> None:
    """Compile what the check and the search call and this machine has not compiled yet."""
    from gpuknn.engine.cpu.needed import compile_kernels  # here: it loads Numba

    compile_kernels(device.kernels(metric, rows, queries, k), told)


def scan(
    rows: Vectors, extent: range, search: Search, device: Device, progress: Callable[[int], None] | None = None
) -> tuple[Neighbors, Certificate]:
    """The neighbours among the rows of `extent`, whose rows have been checked; ids are row numbers in `rows`.

    `progress` is told the number of rows done after each epoch.
    """
    with scanning(rows, extent, search, device) as (state, epochs):
        for done in epochs:
            if progress is not None:
                progress(done)
        return state.result()


@contextmanager
def scanning(
    rows: Vectors, extent: range, search: Search, device: Device
) -> Iterator[tuple[Scan, Generator[int, None, None]]]:
    """The same search, one epoch at a time: the scan, and the number of rows done after each epoch.

    An epoch is searched when the next number is asked for.  `Scan.result` is the answer for the rows done, after any
    epoch; the search may end there, or go on.
    """
    with device.begin(search, rows.dtype) as state, closing(_fed(rows, extent, device, state)) as epochs:
        yield state, epochs


def _fed(rows: Vectors, extent: range, device: Device, state: Scan) -> Generator[int, None, None]:
    """Feed a scan epoch by epoch; the number of rows done after each."""
    resident, runs = device.resident(rows), state.epochs(extent)
    if resident is not None:
        for run in runs:
            state.feed_resident(resident[run.start : run.stop], run.start)
            yield run.stop - extent.start
        return
    with closing(read_ahead(rows, runs, state.buffer, device.readers)) as coming:
        for first, epoch in coming:
            state.feed(epoch, first)
            yield first + len(epoch) - extent.start


def read_ahead(
    rows: Vectors, runs: Sequence[range], buffer: Callable[[int], np.ndarray], threads: int = 1
) -> Generator[tuple[int, np.ndarray], None, None]:
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
