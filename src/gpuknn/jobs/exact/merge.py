"""Merging partial results while the run goes on: a tree of small merges, each of neighbours in the database.

What it is for: the k-th distances of merged shards are lower than those of any single one, and as floors keep more
rows of later shards from being refined; the record stays small; and at the end little is left to be merged.
"""

import time
from functools import reduce
from itertools import pairwise
from operator import add
from pathlib import Path

import numpy as np

from gpuknn.engine.neighbors import Neighbors, merge
from gpuknn.jobs.events import count, tell
from gpuknn.jobs.exact.partial import Damaged, Partial, find_partial, remove_partial, write_partial
from gpuknn.workers.here import AT_WORK

MERGE_BYTES = 2**26
"""Neighbours read at once."""


def merge_partials(folder: Path, queries: range, parts: list[range]) -> np.ndarray | list[range]:
    """Make adjoining partial results one; those it was made of are removed.

    Returns the (nq,) float64 k-th distances; or, where parts are damaged or gone, the rows of these, which are to be
    computed again, and leaves the others as they are.
    """
    with AT_WORK:
        return _merge_partials(folder, queries, parts)


def _merge_partials(folder: Path, queries: range, parts: list[range]) -> np.ndarray | list[range]:
    began = time.monotonic()
    whole = range(parts[0].start, parts[-1].stop)
    try:
        farthest = find_partial(folder, queries, whole).farthest()  # a task that was run before, and its worker lost
    except Damaged:
        try:
            farthest = _merge(folder, queries, whole, [find_partial(folder, queries, rows) for rows in parts])
        except Damaged:
            lost = [rows for rows in parts if not _is_sound(folder, queries, rows)]
            for rows in lost:
                tell(folder, "damaged", queries=queries.start, rows=[rows.start, rows.stop])
            return lost
    for rows in parts:
        remove_partial(folder, queries, rows)
    seconds = time.monotonic() - began
    count("merge", seconds, merges=1)
    merged = {"queries": queries.start, "rows": [whole.start, whole.stop], "parts": len(parts), "seconds": seconds}
    tell(folder, "merged", **merged)
    return farthest


def merge_some(partials: list[Partial], queries: range) -> Neighbors:
    """The neighbours of some queries among the rows of adjoining partial results."""
    return merge([partial.read(queries) for partial in partials], partials[0].k)


def queries_at_once(partials: list[Partial]) -> int:
    """Queries for which some MERGE_BYTES are read: whole stripes, since a stripe's checksum takes all of it."""
    query_bytes = partials[0].k * (8 + partials[0].dists.itemsize) * len(partials)
    stripe = max(partial.stripe for partial in partials)
    return max(1, MERGE_BYTES // query_bytes // stripe) * stripe


def _merge(folder: Path, queries: range, whole: range, partials: list[Partial]) -> np.ndarray:
    """Write the partial result of the parts together; its (nq,) float64 k-th distances."""
    k, at_once = partials[0].k, queries_at_once(partials)
    merged = Neighbors(np.empty((len(queries), k), np.int64), np.empty((len(queries), k), partials[0].dists))
    for start, stop in pairwise([*queries[::at_once], queries.stop]):
        some = merge_some(partials, range(start, stop))
        place = slice(start - queries.start, stop - queries.start)
        merged.ids[place], merged.dists[place] = some.ids, some.dists
    certificate = reduce(add, (partial.certificate for partial in partials))
    devices = sorted({name for partial in partials for name in partial.device.split(", ")})
    write_partial(folder, queries, whole, merged, certificate, ", ".join(devices))
    return merged.dists[:, -1].astype(np.float64)


def _is_sound(folder: Path, queries: range, rows: range) -> bool:
    try:
        find_partial(folder, queries, rows).farthest()
    except Damaged:
        return False
    return True
