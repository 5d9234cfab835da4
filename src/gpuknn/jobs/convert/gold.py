"""Gold standards from one format to another; they are small enough to be written whole."""

from dataclasses import replace

import numpy as np

from gpuknn.errors import InputError
from gpuknn.gold import Comparison, Gold, compare_gold, matched
from gpuknn.gold.distances import alike
from gpuknn.gold.formats import WRITERS


def cut_gold(gold: Gold, queries: range, dists: np.dtype | None) -> tuple[Gold, float]:
    """The answers to some queries, distances as `dists`; and the largest error that rounding has made.

    Raises InputError if a distance is not rounded but lost.
    """
    kept = gold.queries(slice(queries.start, queries.stop))
    if kept.dists is None or dists is None:
        return kept, 0.0
    exact = kept.dists
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(dists)
    lost = np.argwhere(np.isfinite(exact) & ~np.isfinite(rounded))
    if len(lost):
        i, j = (int(x) for x in lost[0])
        raise InputError(f"query {queries.start + i} has a distance of {exact[i, j]:g}, which {dists} cannot hold")
    vanished = np.argwhere((exact != 0) & (rounded == 0))
    if len(vanished):
        i, j = (int(x) for x in vanished[0])
        raise InputError(
            f"query {queries.start + i} (counted from 0) has a distance of {exact[i, j]:g}, which {dists} would make "
            "zero; keep --dtype float64, in a format that holds it (h5)"
        )
    with np.errstate(invalid="ignore"):
        error = np.abs(exact - rounded, dtype=np.float64)
    return replace(kept, dists=rounded), float(error[np.isfinite(error)].max(initial=0))


def for_target(gold: Gold, name: str, where: str) -> Gold:
    """The same without ids of queries that are their numbers; raises InputError if the format loses those that are not.

    `where`: the source, for messages.
    """
    if not gold.in_order and not WRITERS[name].HOLDS_QUERY_IDS:
        raise InputError(f"{where}: its lines are not in the order of the queries' ids, for which {name} has no place")
    if gold.query_ids is not None and np.array_equal(gold.query_ids, np.arange(len(gold))):
        return replace(gold, query_ids=None)
    return gold


def check_gold(ours: Gold, theirs: Gold, where: tuple[str, str]) -> Comparison:
    """Compare the source's answer with what was written: distances as they are stored there, or ids alone."""
    ours, theirs = alike(ours, theirs, where)
    if ours.dists is not None and theirs.dists is not None:
        with np.errstate(over="ignore"):
            ours = replace(ours, dists=ours.dists.astype(theirs.dists.dtype))
    pair = matched(ours, theirs, where)
    return compare_gold(pair.a, pair.b)
