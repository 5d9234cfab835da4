"""Inspection before anything is computed: does the question make sense, can every row be measured?"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gpuknn.engine.metric import Metric, check_dtype, summation_leaves
from gpuknn.errors import InputError, check_known, in_python, option
from gpuknn.vectors import Vectors
from gpuknn.vectors.bits import PACKED_TYPES, kept_as

MOST_DIMENSIONS = 2**18
"""Beyond it the float32 bound says too little."""
COSINE_NORMS = (2.0**-500, 2.0**500)
"""Squared norms whose products and square roots stay exact in range (float64 rows only can leave it)."""
NAMED = 5
CHECKED_VALUES = 2**21
"""Components inspected at once by one thread."""


def check_question(
    database: Vectors,
    queries: Vectors,
    k: int,
    metric: Metric,
    dists: str,
    itself: bool = False,
    self_first: bool = False,
) -> None:
    """Raise InputError where shapes, types, k and dists do not make a question; reads nothing.

    `itself`: the queries are the rows, and each is left out of its own answer; or, `self_first`, stands first in it,
    as one of the k.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise InputError(f"k = {k!r}: must be a whole number")
    if self_first and not itself:
        raise InputError(f"{option('self_first', True)}: the queries are others than the rows; leave it out")
    check_known("dists", dists, ("float32", "float64"))
    for vectors in (database, queries):
        check_dtype(metric, vectors.dtype, vectors.where, vectors.bits is not None)
    if metric is Metric.HAMMING:
        _check_sketches(database, queries)
    if database.shape[1] != queries.shape[1]:
        raise InputError(
            f"{queries.where}: queries have {queries.shape[1]} components, the rows of {database.where} have "
            f"{database.shape[1]}"
        )
    if database.shape[1] > MOST_DIMENSIONS:
        raise InputError(f"{database.where}: {database.shape[1]} components; at most {MOST_DIMENSIONS} are supported")
    least, most = 1 + self_first, len(database) - (itself and not self_first)
    if not least <= k <= most:
        with_itself = f"with {option('self_first', True)} it " if self_first else ""
        others = "" if most == len(database) else " other"
        raise InputError(f"k = {k}: {with_itself}must be from {least} to the number of{others} rows, {most}")


def check_content(
    database: Vectors,
    queries: Vectors,
    metric: Metric,
    dists: str,
    threads: int,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Read queries and database once; raise InputError where a distance could not be computed or stored.

    `progress` is told the number of database rows that are done.
    """
    if metric is Metric.HAMMING:  # any bits are a sketch
        if progress is not None:
            progress(len(database))
        return
    row_norm = check_rows(database, metric, threads, progress)
    query_norm = row_norm if queries is database else check_rows(queries, metric, threads)
    check_range(metric, dists, row_norm, query_norm)


def check_rows(vectors: Vectors, metric: Metric, threads: int, progress: Callable[[int], None] | None = None) -> float:
    """Read all rows once; the largest squared norm.

    Raises InputError, naming the first offending rows, where components are NaN or infinite, where a squared norm
    overflows float64, or where a cosine is undefined because a row is zero (or its squared norm beyond 2^±500).
    """
    from gpuknn.engine.cpu import kernels as cpu_kernels

    n, d = vectors.shape
    length = max(1, CHECKED_VALUES // d)
    leaves = summation_leaves(d)

    def squared_norms(first: int) -> np.ndarray:
        rows = vectors[first : first + length]
        norms = np.empty(len(rows))
        cpu_kernels.squared_norms(rows, leaves, norms)
        return norms

    largest, done = 0.0, 0
    with ThreadPoolExecutor(threads) as pool:
        for norms in pool.map(squared_norms, range(0, n, length)):
            try:
                refuse_unmeasured(vectors, done, norms, metric)
            except InputError:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            largest, done = max(largest, float(norms.max())), done + len(norms)
            if progress is not None:
                progress(done)
    return largest


def refuse_unmeasured(vectors: Vectors, first: int, norms: np.ndarray, metric: Metric) -> None:
    """Raise InputError as `check_rows` does for rows from `first` on, of the squared norms (m,)."""
    low, high = COSINE_NORMS if metric is Metric.COSINE else (0.0, np.finfo(np.float64).max)
    bad = np.flatnonzero(~((norms >= low) & (norms <= high)))
    if len(bad):
        raise InputError(_describe(vectors, bad + first, norms[bad], metric))


def check_range(metric: Metric, dists: str, row_norm: float, query_norm: float) -> None:
    """Raise InputError where a distance could overflow the type it is stored in; takes the largest squared norms."""
    if metric is Metric.COSINE:
        return
    x, q = row_norm**0.5, query_norm**0.5
    largest = x * q if metric is Metric.IP else (x + q) * (x + q)
    if not largest < float(np.finfo(dists).max):
        advice = f"use {option('dists', 'float64')}" if dists == "float32" else "scale the vectors down"
        raise InputError(f"distances up to {largest:.3g} do not fit {dists}; {advice}")


def _check_sketches(database: Vectors, queries: Vectors) -> None:
    """Raise InputError where the bits of rows and queries differ in number, or may differ in what they mean."""
    kinds = [kept_as(queries), kept_as(database)]
    differ = f"{queries.where}: holds {kinds[0]}, and {database.where} {kinds[1]}"
    if {*kinds} & {*PACKED_TYPES} and {*kinds} - {*PACKED_TYPES}:
        advice = in_python("; of words that were packed alike, rows.view(np.uint8) gives the bytes")
        raise InputError(f"{differ}; nobody can tell in which order the bits were packed: keep both alike{advice}")
    if "int8" in kinds and kinds[0] != kinds[1]:
        advice = in_python(", by rows.view(np.uint8), or else by rows.view(np.uint8) ^ 128")
        raise InputError(
            f"{differ}; int8 may be the same bytes, or 128 less as sentence-transformers' binary is: "
            f"make both one type{advice}"
        )
    asked, have = (rows.bits or 64 * rows.shape[1] for rows in (queries, database))
    # Words may hold booleans that do not fill them.
    if asked != have and {*kinds} != {"bool", "uint64"}:
        raise InputError(f"{queries.where}: queries have {asked} bits, the rows of {database.where} have {have}")


def _describe(vectors: Vectors, rows: np.ndarray, norms: np.ndarray, metric: Metric) -> str:
    """One line on the first rows at fault, of the first file that holds some."""
    if not np.isfinite(norms[0]):
        same, fault = ~np.isfinite(norms), "NaN, infinite or too large components"
    elif norms[0] == 0:
        same, fault = norms == 0, f"only zeros, for which {metric.value} is not defined"
    else:
        same, fault = np.isfinite(norms) & (norms > 0), "a norm outside 1e-75 to 1e75"
    located = [vectors.locate(int(row)) for row in rows[same][: NAMED + 1]]
    where = located[0][0]
    named = [row for file, row in located if file == where]
    more = ", ..." if len(named) > NAMED else ""
    plural = "s" if len(named) > 1 else ""
    return f"{where}: row{plural} {', '.join(map(str, named[:NAMED]))}{more} (counted from 0): {fault}"
